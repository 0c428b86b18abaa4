"""What lies in a work folder: where each file is, how it is written and read, and which settings and code made it."""

"""One writer at a time in a work folder, and what a killed one left half written."""

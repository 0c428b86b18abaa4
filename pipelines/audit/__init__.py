"""Is the bank any good: its fakes measured against real images, for `cgankd bank audit`."""

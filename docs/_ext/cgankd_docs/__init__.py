"""The parts of the documentation site that are made from the code, and what the site needs to show mathematics."""

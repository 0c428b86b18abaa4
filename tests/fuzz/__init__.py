"""Hostile input for every reader: by hypothesis in the tests, and coverage-guided by atheris (`make fuzz`)."""

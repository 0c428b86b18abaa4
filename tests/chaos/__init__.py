"""Runs that are killed at random moments and then finished: what they leave is what an undisturbed run leaves."""

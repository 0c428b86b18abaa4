"""The record of every run: JSON lines always, and MLflow where a store answers."""

"""The door that console scripts of installations before the wings name; a new one names pipelines.commands.app."""

from pipelines.commands.app import main as main

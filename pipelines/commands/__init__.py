"""The words a user types, and nothing but Typer: what a command does lies in the wings below."""

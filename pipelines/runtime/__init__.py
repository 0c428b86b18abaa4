"""What a run of a stage stands on: its context, how it begins, what of the machine it may use, and its progress."""

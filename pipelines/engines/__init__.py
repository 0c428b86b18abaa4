"""Where independent jobs run: worker processes of this machine, or a Ray cluster. A job's result does not depend on it."""

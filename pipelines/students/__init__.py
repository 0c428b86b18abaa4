"""Training one student: one arm at one seed, in whatever process it is asked for."""

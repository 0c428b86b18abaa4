"""How fast the work of the method is, against the same work done in the plain way, side by side in one run."""

"""A stand-in for the package of slime; see its modules."""

"""The calls: who may make them, how many at once, what they do, and what a failure becomes."""

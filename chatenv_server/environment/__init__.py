"""One episode as its caller steps it: checks, limits, tasks, transforms."""

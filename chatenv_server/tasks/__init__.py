"""Tasks: what makes an episode an environment that answers. `task.py` says what a task is; the rest is ready-made."""

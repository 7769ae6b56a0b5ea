"""Adapters to trainers, one file each: docs/trainers.md. None is imported unless asked for; each has an extra."""

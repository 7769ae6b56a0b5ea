"""Trajectories in files, JSON Lines or Parquet, and back. docs/training.md lists the columns."""

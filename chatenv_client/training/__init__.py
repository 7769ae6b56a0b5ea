"""Rows made into batches: padded side by side, or packed one after the other."""

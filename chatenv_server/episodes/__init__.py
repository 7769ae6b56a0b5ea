"""The episodes of a server: found by id, kept within a budget."""

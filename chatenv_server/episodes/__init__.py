"""The episodes of a server, by id and within a budget."""

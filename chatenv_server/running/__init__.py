"""The server process: what it serves, where it listens, how it starts and ends."""

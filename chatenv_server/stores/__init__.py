"""Where episodes live beside the memory of a process: one protocol, and a module for each kind of store."""

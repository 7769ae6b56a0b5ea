"""The RPCs: who may call, how many at once, what each call does, and what becomes of a failure."""

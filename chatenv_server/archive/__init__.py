"""The record of every ended episode, in files of a folder."""

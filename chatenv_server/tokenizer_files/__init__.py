"""Reads tokenizers from names and folders."""

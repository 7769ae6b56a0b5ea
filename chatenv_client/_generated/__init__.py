"""Stubs made from ``proto/`` by ``make stubs``. Private by name, and nobody edits them."""

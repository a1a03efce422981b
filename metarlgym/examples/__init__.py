"""Runnable examples of the library's own pieces."""

"""Sequences of the sources as files that other programs read."""

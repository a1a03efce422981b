"""Gist tokens: a chunk is compressed through an attention bottleneck, and an actor learns in the space of gists."""

"""Gist tokens: compress a chunk through an attention bottleneck, and train an actor in gist space."""

"""Shared by all kinds of runs: the run folder and its lock, which files a run may remove, checkpoints and stopping."""

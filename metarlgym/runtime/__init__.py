"""What all kinds of runs share: the run folder, its lock, what a run may remove, and how a run is stopped."""

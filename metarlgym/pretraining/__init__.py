"""Memory-based meta-learning: pretraining on fresh sequences of a source with log-loss."""

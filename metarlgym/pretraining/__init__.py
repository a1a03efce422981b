"""Memory-based meta-learning by log-loss: models trained on fresh sequences of a source."""

"""A learned loss, tuned by exact second-order gradients so that a step under it helps most on validation chunks."""

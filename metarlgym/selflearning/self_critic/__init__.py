"""Self-critic: a model learns from the scores or targets of its own critic, and how that gets hacked."""

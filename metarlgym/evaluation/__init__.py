"""Evaluation: how a policy adapts over the episodes of held-out trials, against the optimum and the controls."""

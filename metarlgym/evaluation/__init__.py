"""Evaluation: a policy's adaptation over the episodes of held-out trials, compared with the optimum and controls."""

"""Scoring of models and predictors on sequences: log-loss, expected loss, reference values, plots."""

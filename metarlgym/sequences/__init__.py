"""Sequence worlds: sources with a known law, exact predictors, data export, and scoring of models on sequences."""

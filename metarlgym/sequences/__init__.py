"""Sequence worlds: sources with a known law, exact predictors, data files, and scores of models that read them."""

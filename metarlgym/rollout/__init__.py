"""Rollouts: many concurrent trials against one policy, tokens in and tokens out."""

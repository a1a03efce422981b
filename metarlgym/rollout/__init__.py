"""Rollouts: many trials at once against one policy, tokens in and tokens out."""

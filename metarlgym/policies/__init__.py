"""Policies: what picks actions."""

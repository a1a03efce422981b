"""Policies: everything that chooses actions."""

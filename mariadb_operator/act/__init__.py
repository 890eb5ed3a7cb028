"""Carries out effects: one idempotent interpreter for each family of effects."""

"""Builds the project's container images on a machine that need not reach any image registry."""

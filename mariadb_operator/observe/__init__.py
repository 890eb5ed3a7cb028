"""Builds snapshots: what watch streams and probes say becomes facts with an age."""

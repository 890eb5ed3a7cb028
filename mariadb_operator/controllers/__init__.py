"""Observe, decide, write the status, act: the loop that works one cluster at a time."""

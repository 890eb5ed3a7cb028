"""Logs and metrics; decides nothing."""

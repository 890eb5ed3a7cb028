"""The one error of this program: something is missing or failed, and what to do about it."""

from __future__ import annotations


class LocalClusterError(Exception):
    """Shown to the user as it is; the message says what failed and what to do next."""

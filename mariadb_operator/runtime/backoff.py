"""Exponential back-off with jitter, for everything that tries again.

Not a retry loop: the caller decides what is worth another try and does the waiting.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays that double up to a limit, each cut by up to half at random so that peers spread."""

    __slots__ = ("_base", "_failures", "_limit", "_rng")

    def __init__(self, *, base: float, limit: float, rng: random.Random) -> None:
        """Start with about `base` seconds and never exceed `limit` seconds."""
        if not 0 < base <= limit:
            raise ValueError(f"back-off needs 0 < base <= limit, got base={base} limit={limit}")
        self._base = base
        self._limit = limit
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many delays were taken since the last reset."""
        return self._failures

    def next(self) -> float:
        """The next delay in seconds: 50-100 % of base * 2^failures, at most the limit."""
        # The exponent is bounded because 2.0**1024 overflows.
        full = min(self._limit, self._base * 2.0 ** min(self._failures, 60))
        self._failures += 1
        return full * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: the next failure starts small again."""
        self._failures = 0

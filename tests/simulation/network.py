"""Hosts and the wires between them: delays, cuts in either direction, machines without power.

What is sent into a cut wire is sent again when it heals, as TCP does, also if the sender has closed its end meanwhile.
What is sent to a machine without power is gone. Not for who listens (mariadb.py, kubernetes.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.simulation.loop import SimulatedLoop

SHORTEST, LONGEST = 0.0001, 0.0012  # seconds a message takes
RESEND = (0.05, 1.5)  # seconds until what was lost is sent again after a cut has healed


class Network:
    """All hosts of one world."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._cut: set[tuple[str, str]] = set()
        self._down: set[str] = set()
        self._held: list[tuple[str, str, Callable[..., object], tuple[Any, ...]]] = []
        self.slowness = 1.0

    def passes(self, source: str, target: str) -> bool:
        """Whether a message gets from one host to the other now."""
        return source == target or (
            (source, target) not in self._cut and target not in self._down and source not in self._down
        )

    def talks(self, one: str, other: str) -> bool:
        """Whether they reach each other."""
        return self.passes(one, other) and self.passes(other, one)

    def is_up(self, host: str) -> bool:
        return host not in self._down

    def delay(self) -> float:
        return self._rng.uniform(SHORTEST, LONGEST) * self.slowness

    def send(self, source: str, target: str, arrive: Callable[..., object], *args: Any) -> None:
        """Have `arrive(*args)` called when the message has come to the other host."""
        if self.passes(source, target):
            self._loop.in_world(self.delay(), arrive, *args)
        elif source not in self._down and target not in self._down:
            self._held.append((source, target, arrive, args))

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from the one to the other; the other way is another wire."""
        self._cut.add((source, target))

    def heal(self, source: str, target: str) -> None:
        self._cut.discard((source, target))
        self._resend()

    def power_off(self, host: str) -> None:
        self._down.add(host)
        self._held = [each for each in self._held if host not in each[:2]]

    def power_on(self, host: str) -> None:
        self._down.discard(host)

    def heal_all(self) -> None:
        self._cut.clear()
        self._resend()

    @property
    def whole(self) -> bool:
        return not self._cut and not self._down

    def _resend(self) -> None:
        held, self._held = self._held, []
        delays: dict[tuple[str, str], float] = {}
        for source, target, arrive, args in held:
            if not self.passes(source, target):
                self._held.append((source, target, arrive, args))
                continue
            # What was sent first arrives first.
            delay = delays.get((source, target)) or self._rng.uniform(*RESEND)
            delays[source, target] = delay + 0.0001
            self._loop.in_world(delay, arrive, *args)

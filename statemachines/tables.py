"""The shape of a transition row; the rows are in cluster.py and failover.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from statemachines.guards import Guard
from statemachines.record import Record, Situation
from statemachines.states import State

Update = Callable[[Situation], Record]
"""A pure edit of the record that goes with a transition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One edge: fired when every guard of `when` holds and none of `unless`.

    `write_ahead`: the status is written before any effect of the new state runs. Only steps that bind nobody (they
    may be repeated from the last written state by a new leader) go without; their history is written with the next.
    """

    trigger: str
    source: State
    target: State
    when: tuple[Guard, ...] = ()
    unless: tuple[Guard, ...] = ()
    updates: tuple[Update, ...] = ()
    write_ahead: bool = True
    text: str

    def holds(self, situation: Situation) -> bool:
        """Whether this edge may be taken now."""
        return all(guard(situation) for guard in self.when) and not any(
            guard(situation) for guard in self.unless
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """The guards by name, as the history shows them."""
        return tuple(guard.__name__ for guard in self.when) + tuple(f"not {g.__name__}" for g in self.unless)

"""Guards that do not ask any more, for tests that have to find out. Not for rules that are no guards: each such test breaks its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from statemachines import decide, guards
from statemachines.guards import Guard
from statemachines.record import Situation

Break = Callable[[pytest.MonkeyPatch], None]


def always(name: str, answer: bool) -> Break:
    """A guard that always answers the same, wherever it is asked."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        def broken(s: Situation) -> bool:
            return answer

        broken.__name__ = name
        original = getattr(guards, name)
        patch.setattr(guards, name, broken)
        rows = tuple(
            replace(row, when=_swap(row.when, original, broken), unless=_swap(row.unless, original, broken))
            for row in vars(decide)["TABLE"]
        )
        patch.setattr(decide, "TABLE", rows)

    return apply


def _swap(asked: Iterable[Guard], original: Guard, broken: Guard) -> tuple[Guard, ...]:
    return tuple(broken if guard is original else guard for guard in asked)

"""Each rule of the operator that is broken on purpose is found within a few seeds, and named by its invariant."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.scenario import Options, play

SEEDS = 12


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(monkeypatch)
    options = Options(faults=mutation.faults, shape=mutation.shape)
    found: list[str] = []
    for seed in range(SEEDS):
        found.append(play(seed, options).violation)
        if found[-1][:1] in (*mutation.violates,):
            return
    raise AssertionError(found)

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
    found = [result.violation for seed in range(SEEDS) if (result := play(seed, options)).violation]
    assert [each for each in found if each[0] in mutation.violates], found

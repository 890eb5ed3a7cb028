"""The commands of the quickstart and of the tasks work, in order, in one shell, as somebody who copies them runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation.blocks import blocks
from tests.harness import faults
from tests.harness.fixtures import SharedCluster
from tests.harness.kube import Kube
from tests.harness.namespaces import remove_namespace
from tests.harness.operators import Operators
from tests.harness.shell import opened_shell

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 400  # more than any timeout on the pages


@pytest.fixture
def page(
    request: pytest.FixtureRequest, kube: Kube, operators: Operators, shared: SharedCluster
) -> Iterator[str]:
    """A page, and nothing of what an earlier run of it left behind in the namespace of its name; nor a cluster of
    other tests, whose kept-out instance would not let a node be drained.
    """
    namespace = request.param.removesuffix(".md")

    def clear() -> None:
        faults.undo_what_is_left(kube)
        operators.ensure_deployed()
        if kube.get("namespaces", namespace) is not None:
            remove_namespace(kube, namespace, until_gone=True)

    clear()
    shared.drop()
    yield request.param
    clear()


@pytest.mark.parametrize("page", ["quickstart.md", "operations.md"], indirect=True)
def test_every_command_of_a_page_succeeds_in_order(page: str, kube: Kube) -> None:
    found = blocks(ROOT / "docs" / page)
    not_run = [str(block) for block in found if block.language == "sh"]
    assert not not_run, f"nobody runs the commands of {not_run}: make console blocks of them"
    consoles = [block for block in found if block.language == "console"]
    assert consoles, f"docs/{page} has no console block"
    with opened_shell(kube.kubeconfig) as shell:
        for block in consoles:
            for command in block.commands():
                shell.run(command, seconds=COMMAND_SECONDS)

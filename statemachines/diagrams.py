"""The machine as pictures: Mermaid by transitions' own GraphMachine, DOT, and SVG drawn by graphviz.

Everything is read from the table that runs. Not for the text around the pictures nor for files: export.py.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable

from transitions.extensions import HierarchicalGraphMachine

from statemachines.cluster import TABLE
from statemachines.decide import machine_states
from statemachines.states import FAILING_OVER, STATES, Kind, State

COMPOSITE = State.CONFIRMING.top
DRAW_SECONDS = 60.0

Edges = dict[tuple[str, str], tuple[str, ...]]
"""(from, to) -> triggers; the composite's own path stands for all of its substates."""


def edges(*, failover_only: bool) -> Edges:
    """Every edge once; an edge that every substate of FailingOver has is drawn from FailingOver itself."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in TABLE:
        if failover_only and not {row.source, row.target} & {*FAILING_OVER}:
            continue
        shared = all(
            any(
                other.source is state and other.trigger == row.trigger and other.target is row.target
                for other in TABLE
            )
            for state in FAILING_OVER
        )
        source = COMPOSITE if shared and row.source in FAILING_OVER else row.source.value
        triggers = found.setdefault((source, row.target.value), [])
        if row.trigger not in triggers:
            triggers.append(row.trigger)
    return {ends: tuple(triggers) for ends, triggers in found.items()}


def _shown(drawn: Edges) -> list[State]:
    ends = {end for pair in drawn for end in pair}
    return [state for state in State if state.value in ends or (state.substate and state.top in ends)]


class _Pen:
    """What GraphMachine draws: a model that is in no state of its own."""

    state: str


def mermaid(*, failover_only: bool) -> str:
    """A stateDiagram-v2, without the marks of a running model."""
    drawn = edges(failover_only=failover_only)
    tops = {state.top for state in _shown(drawn)}
    states = [each for each in machine_states() if (each["name"] if isinstance(each, dict) else each) in tops]
    rows = [
        {"trigger": trigger, "source": source, "dest": target}
        for (source, target), triggers in drawn.items()
        for trigger in triggers
    ]
    machine = HierarchicalGraphMachine(
        model=None,
        states=states,
        transitions=rows,
        initial=_shown(drawn)[0].value,
        auto_transitions=False,
        graph_engine="mermaid",
        title=f"title: {COMPOSITE if failover_only else 'MariaDBCluster'}",  # it is put into the front matter as is
    )
    pen = _Pen()
    machine.add_model(pen)
    source = str(pen.get_graph().source)  # type: ignore[attr-defined]  # add_model adds it
    kept = [
        line.rstrip() for line in source.splitlines() if not re.match(r"\s*(Class|classDef|\[\*\]) ", line)
    ]
    return "\n".join(line for line in kept if line) + "\n"


def dot(*, failover_only: bool) -> str:
    """The same in graphviz's language; transient states are rounded and stand in FailingOver's frame."""
    drawn = edges(failover_only=failover_only)
    lines = [
        "digraph machine {",
        '  graph [compound=true, rankdir=TB, fontname="Helvetica", nodesep=0.35, ranksep=0.5];',
        '  node [shape=box, fontname="Helvetica", style="filled", fillcolor="#f4f6fa", color="#4a5a78"];',
        '  edge [fontname="Helvetica", fontsize=10, color="#4a5a78"];',
    ]
    shown = _shown(drawn)
    lines += [_node(state) for state in shown if not state.substate]
    lines += [f"  subgraph cluster_{COMPOSITE} {{", f'    label="{COMPOSITE}"; color="#9aa7bf";']
    lines += ["  " + _node(state) for state in shown if state.substate]
    lines += ["  }"]
    lines += [_arrow(source, target, triggers) for (source, target), triggers in drawn.items()]
    return "\n".join([*lines, "}"]) + "\n"


def _node(state: State) -> str:
    kind = STATES[state].kind
    look = {Kind.STABLE: "", Kind.TRANSIENT: ', style="filled,rounded"', Kind.FINAL: ", peripheries=2"}[kind]
    return f'  "{state.value}" [label="{state.substate or state.top}"{look}];'


def _arrow(source: str, target: str, triggers: Iterable[str]) -> str:
    label = "\\n".join(triggers)
    if source == COMPOSITE:
        return f'  "{State.OPENING.value}" -> "{target}" [label="{label}", ltail="cluster_{COMPOSITE}"];'
    return f'  "{source}" -> "{target}" [label="{label}"];'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def svg(source: str) -> str:
    """The DOT drawn by graphviz, with a first comment that says what was drawn.

    Raises FileNotFoundError where graphviz is not installed.
    """
    program = shutil.which("dot")
    if program is None:
        raise FileNotFoundError("graphviz's `dot` is not on PATH (Debian: apt-get install graphviz)")
    run = subprocess.run(  # noqa: S603  # a program found on PATH, our own input
        [program, "-Tsvg"], input=source, capture_output=True, text=True, check=True, timeout=DRAW_SECONDS
    )
    body = run.stdout[run.stdout.index("<svg") :]
    return f"<!-- dot {_digest(source)} drawing {_digest(body)} -->\n{body}"


def drawn_from(picture: str, source: str) -> bool:
    """Whether an SVG is an unchanged drawing of that DOT.

    By digests, not by drawing again: graphviz measures text with the fonts of the machine it runs on, so two machines
    draw the same DOT with other coordinates.
    """
    comment, _, body = picture.partition("\n")
    return comment == f"<!-- dot {_digest(source)} drawing {_digest(body)} -->"

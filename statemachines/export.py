"""Export: docs/machine/ from the tables that run, so that no diagram can lie.

Writes Mermaid, DOT, SVG, JSON and Markdown tables; `--check` says which committed ones are stale. Not for drawing
itself: diagrams.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from statemachines import diagrams
from statemachines.bookkeeping import RULES
from statemachines.cluster import TABLE
from statemachines.detection import ANALYSES, PROOFS
from statemachines.effects import Effect
from statemachines.election import REASONS
from statemachines.guards import Guard
from statemachines.states import SCHEMA, STATES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "machine"
REMEDY = "python -m statemachines export"


def guards() -> tuple[Guard, ...]:
    """Every guard that a row of the table uses, by name."""
    used = {guard.__name__: guard for row in TABLE for guard in (*row.when, *row.unless)}
    return tuple(used[name] for name in sorted(used))


def effect_types() -> tuple[type, ...]:
    """Every effect, in the order of the union."""
    return typing.get_args(Effect)


def _sentence(thing: Callable[..., object] | type) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def document() -> dict[str, object]:
    """The machine as plain data."""
    return {
        "schema": SCHEMA,
        "states": [
            {"name": state.value, "kind": info.kind.value, "text": info.text}
            for state, info in STATES.items()
        ],
        "transitions": [
            {
                "trigger": row.trigger,
                "source": row.source.value,
                "target": row.target.value,
                "when": [guard.__name__ for guard in row.when],
                "unless": [guard.__name__ for guard in row.unless],
                "updates": [update.__name__ for update in row.updates],
                "write_ahead": row.write_ahead,
                "text": row.text,
            }
            for row in TABLE
        ],
        "guards": {guard.__name__: _sentence(guard) for guard in guards()},
        "effects": {
            kind.__name__: {
                "fields": [field.name for field in dataclasses.fields(kind)],
                "text": _sentence(kind),
            }
            for kind in effect_types()
        },
        "bookkeeping": {rule.__name__: _sentence(rule) for rule in RULES},
        "analyses": {code.value: text for code, text in ANALYSES.items()},
        "proofs": {proof.value: text for proof, text in PROOFS.items()},
        "unfit": {reason.value: text for reason, text in REASONS.items()},
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def _names(names: Iterable[str], *, prefix: str = "") -> str:
    return "<br>".join(f"{prefix}`{name}`" for name in names)


def _transition_rows() -> Iterable[tuple[str, ...]]:
    for row in TABLE:
        conditions = [_names(guard.__name__ for guard in row.when)]
        conditions.append(_names((guard.__name__ for guard in row.unless), prefix="not "))
        yield (
            f"`{row.source.value}`",
            f"`{row.trigger}`",
            f"`{row.target.value}`",
            "<br>".join(each for each in conditions if each),
            "first" if row.write_ahead else "with the next",
            row.text,
        )


def page() -> str:
    """The Markdown page: pictures, then every table."""
    states = ((f"`{state.value}`", info.kind.value, info.text) for state, info in STATES.items())
    effects = (
        (f"`{kind.__name__}`", ", ".join(field.name for field in dataclasses.fields(kind)), _sentence(kind))
        for kind in effect_types()
    )
    transitions = _table(("From", "Trigger", "To", "When", "Status write", "Meaning"), _transition_rows())
    sections = (
        ("The whole machine", _picture("machine")),
        ("FailingOver", _picture("failover")),
        ("States", _table(("State", "Kind", "Meaning"), states)),
        ("Transitions", f"{_ABOUT_TRANSITIONS}\n\n{transitions}"),
        ("Guards", _table(("Guard", "Question"), ((f"`{g.__name__}`", _sentence(g)) for g in guards()))),
        ("Effects", _table(("Effect", "Arguments", "What it does"), effects)),
        (
            "Bookkeeping",
            _table(("Rule", "When it edits"), ((f"`{r.__name__}`", _sentence(r)) for r in RULES)),
        ),
        ("What may be the matter with the primary", _codes("Analysis", ANALYSES)),
        ("What proves that the primary's server ended", _codes("Proof", PROOFS)),
        ("Why an instance may not be promoted", _codes("Reason", REASONS)),
    )
    body = "\n".join(f"## {title}\n\n{text}" for title, text in sections)
    about = (
        f"Generated by `{REMEDY}` from the tables that run; not edited by hand. "
        "As data: [machine.json](machine.json)."
    )
    return f"# The machine\n\n{about}\n\n{body}"


_ABOUT_TRANSITIONS = (
    "Tried from top to bottom among those of one state; the first that holds is taken. *Status write*: `first` means "
    "that the status is written before any effect of the new state runs; `with the next`, that the step binds nobody "
    "and may be repeated from the last written state."
)


def _picture(name: str) -> str:
    return f"![{name}]({name}.svg)\n\nThe same as [Mermaid]({name}.mmd) and as [DOT]({name}.dot).\n"


def _codes(head: str, texts: typing.Mapping[typing.Any, str]) -> str:
    return _table((head, "Meaning"), ((f"`{code.value}`", text) for code, text in texts.items()))


def texts() -> dict[str, str]:
    """Every generated file but the pictures: name and content."""
    made = {
        "index.md": page(),
        "machine.json": json.dumps(document(), indent=2) + "\n",
    }
    for name, failover_only in (("machine", False), ("failover", True)):
        made[f"{name}.mmd"] = diagrams.mermaid(failover_only=failover_only)
        made[f"{name}.dot"] = diagrams.dot(failover_only=failover_only)
    return made


def stale(folder: Path = FOLDER) -> tuple[str, ...]:
    """Names of the files that are not what the tables would give now."""
    made = texts()
    found = [name for name, text in made.items() if _read(folder / name) != text]
    found += [
        f"{name}.svg"
        for name in ("machine", "failover")
        if not diagrams.drawn_from(_read(folder / f"{name}.svg"), made[f"{name}.dot"])
    ]
    return tuple(found)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write(folder: Path = FOLDER) -> tuple[str, ...]:
    """Write what is stale; returns the names of what was written. Raises FileNotFoundError without graphviz."""
    outdated = stale(folder)
    made = texts()
    folder.mkdir(parents=True, exist_ok=True)
    for name in outdated:
        stem, _, kind = name.partition(".")
        text = diagrams.svg(made[f"{stem}.dot"]) if kind == "svg" else made[name]
        (folder / name).write_text(text, encoding="utf-8")
    return outdated


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m statemachines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write docs/machine/ from the tables")
    export.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        outdated = stale()
        for name in outdated:
            print(f"stale: docs/machine/{name}")
        if outdated:
            print(
                f"The tables have changed since these were generated: run `{REMEDY}` and commit docs/machine/."
            )
        return 1 if outdated else 0
    for name in write():
        print(f"written: docs/machine/{name}")
    return 0

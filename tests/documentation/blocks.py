"""Finds the fenced code blocks of a Markdown page.

In `console` blocks lines that begin with `$ ` are commands (`> ` goes on with the one before), the others what they
print; end-to-end tests run those of the quickstart. `sh` blocks are for reading and copying: only their syntax is
checked. Not a Markdown parser: a fence inside a list is found, one inside a quotation is not.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """One code block: its page, the line of its fence counted from 1, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self) -> list[str]:
        """What a reader types: the commands of a `console` block, else the text as one script."""
        if self.language != "console":
            return [self.text]
        commands: list[str] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif line.startswith("> ") and commands:
                commands[-1] += "\n" + line[2:]
        return commands


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=content.count("\n", 0, match.start()) + 1,
            language=match["language"],
            text=textwrap.dedent(match["text"]),
        )
        for match in _FENCE.finditer(content)
    ]

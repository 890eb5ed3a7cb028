"""What the pages show can be copied: their commands parse, their manifests load, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.documentation.blocks import Block, blocks

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<target>[^)#\s]+)")


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@pytest.mark.parametrize("block", of("sh", "console"), ids=str)
def test_commands_parse(block: Block) -> None:
    commands = block.commands()
    assert commands, "a console block without a line that begins with `$ `"
    for command in commands:
        result = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_manifests_load(block: Block) -> None:
    documents = list(yaml.safe_load_all(block.text))
    assert any(documents)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [match["target"] for match in LINK.finditer(prose)]
    broken = [target for target in targets if not (page.parent / target).exists()]
    assert not broken


def test_every_block_says_its_language() -> None:
    unnamed = [str(block) for block in BLOCKS if not block.language]
    assert not unnamed


def test_a_console_block_gives_its_commands_without_their_output(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```console\n$ kubectl get mdc\nNAME   STATE\n$ cat <<END\n> a\n> END\na\n```\n")
    (block,) = blocks(page)
    assert (str(block), block.commands()) == ("page.md:3", ["kubectl get mdc", "cat <<END\na\nEND"])

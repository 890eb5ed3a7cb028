"""What the pages say of codes, reasons and fields is complete: nobody meets a word that no page explains."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from mariadb_operator.controllers import report
from mariadb_operator.observe import pods
from statemachines.detection import Analysis, Proof
from statemachines.election import Unfit
from tests.documentation import reference
from tests.documentation.blocks import blocks

DOCS = reference.ROOT / "docs"
PAGES = [reference.ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PATCH = re.compile(r"-p '(\{.*?\})'(?:\s|$)")
PATH = re.compile(r"\.(?P<root>spec|status)(?P<rest>(?:\.[A-Za-z]+|\[[^]]*\])+)")


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_generated_pages_are_fresh(name: str) -> None:
    path = reference.FOLDER / name
    assert path.exists(), f"run {reference.REMEDY}"
    assert path.read_text(encoding="utf-8") == reference.pages()[name], f"stale: run {reference.REMEDY}"


@pytest.mark.parametrize("word", [*Analysis, *Proof, *Unfit, *report._BLOCKED], ids=str)
def test_every_code_is_explained_where_people_look_for_it(word: str) -> None:
    assert f"| `{word}` |" in (DOCS / "failover.md").read_text(encoding="utf-8")


def reasons() -> set[str]:
    """Reasons of conditions, as literals in the code that gives them."""
    found = set(pods._START_PROBLEMS)
    for folder in ("act", "controllers"):
        for path in sorted((reference.ROOT / "mariadb_operator" / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                values = (each.value for each in _given(node) if isinstance(each, ast.Constant))
                found |= {value for value in values if isinstance(value, str) and value}
    return found


def _given(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "InputProblem":
            return node.args[:1]
        return node.args[2:3] if node.func.id == "_answer" else []
    # `return "BinlogPurged", "..."`
    return node.value.elts[:1] if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) else []


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_of_a_condition_is_explained(reason: str) -> None:
    assert f"`{reason}`" in (DOCS / "reference/conditions.md").read_text(encoding="utf-8")


def known_fields() -> dict[str, str]:
    """Every field with its type."""
    definition = yaml.safe_load(reference.DEFINITION.read_text(encoding="utf-8"))
    properties = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return {
        row[0].split("`")[1].replace("[]", ""): row[1]
        for part in ("spec", "status")
        for row in reference._fields(properties[part], f"{part}.")
    }


def is_known(field: str, known: dict[str, str]) -> bool:
    parent = known.get(field.rpartition(".")[0], "")
    return field in known or parent.startswith("map of")


def leaves(value: object, path: str) -> list[str]:
    if isinstance(value, dict):
        return [
            leaf for key, each in value.items() for leaf in leaves(each, f"{path}.{key}" if path else key)
        ]
    return [path]


def commands() -> list[tuple[Path, str]]:
    return [
        (page, command)
        for page in PAGES
        for block in blocks(page)
        if block.language in ("sh", "console")
        for command in block.commands()
        if "mdc" in command
    ]


def test_patches_and_paths_in_commands_name_fields_that_exist() -> None:
    known, checked = known_fields(), 0
    for page, command in commands():
        patches = [leaf for text in PATCH.findall(command) for leaf in leaves(json.loads(text), "")]
        paths = [match["root"] + re.sub(r"\[[^]]*\]", "", match["rest"]) for match in PATH.finditer(command)]
        for field in [*patches, *paths]:
            checked += 1
            assert is_known(field, known), f"{page.name}: {command}: no field {field}"
    assert checked > 10


def test_manifests_in_the_pages_have_only_fields_that_exist() -> None:
    known, checked = known_fields(), 0
    for page in PAGES:
        for block in blocks(page):
            if block.language != "yaml" or "kind: MariaDBCluster" not in block.text:
                continue
            checked += 1
            for field in leaves(yaml.safe_load(block.text)["spec"], "spec"):
                assert is_known(field, known), f"{page.name}: no field {field}"
    assert checked


ACCOUNTS = ("mariadb_operator@%", "mariadb_probe@%", "mariadb_supervisor@localhost")


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_page_on_security_names_every_privilege_of_an_account(account: str) -> None:
    script = (
        (reference.ROOT / "mariadb_operator/node/supervisor.sh").read_text(encoding="utf-8").replace("'", "")
    )
    granted = re.findall(rf"^GRANT (.*) ON \S+ TO {re.escape(account)}", script, re.MULTILINE)
    assert granted
    lines = (DOCS / "security.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith(f"| `{account}`"))
    for privilege in ", ".join(granted).split(", "):
        assert privilege.replace("READ_ONLY", "READ ONLY") in row

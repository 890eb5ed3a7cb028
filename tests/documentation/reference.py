"""Writes docs/reference/ from what it describes: `python -m tests.documentation.reference`.

Fields come from the committed definition, settings and metrics from the classes that hold them. That the pages are
fresh is a test (test_reference.py). Not for pages that people write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from mariadb_operator.settings import Settings
from mariadb_operator.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/reference"
ROLES = ROOT / "deploy/kustomize/role.yaml"
DEFINITION = ROOT / "crds/mariadb.fsm.dev_mariadbclusters.yaml"
REMEDY = "python -m tests.documentation.reference"

Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Name and content of every generated page."""
    return {
        "fields.md": fields(),
        "settings.md": settings(),
        "metrics.md": metrics(),
        "permissions.md": permissions(),
    }


def fields() -> str:
    """Every field of the resource, and the rules between them."""
    definition = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
    version = definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    columns = (
        (each["name"], f"`{each['jsonPath']}`", each["description"])
        for each in version["additionalPrinterColumns"]
    )
    rules = sorted({rule["message"] for part in ("spec",) for rule in _rules(schema[part])})
    return _page(
        "Fields of a MariaDBCluster",
        "`kubectl explain mdc.spec` shows the same.",
        ("spec", _table(("Field", "Type", "Default", "Meaning"), _fields(schema["spec"], ""))),
        ("What is refused", "".join(f"- {each}\n" for each in rules)),
        ("status", _table(("Field", "Type", "", "Meaning"), _fields(schema["status"], ""))),
        ("Columns of `kubectl get mdc`", _table(("Column", "From", "Meaning"), columns)),
    )


def settings() -> str:
    """Every setting of the operator's process."""
    rows = (
        (
            f"`MARIADB_OPERATOR_{name.upper()}`",
            f"`{field.default}`" if str(field.default) else "",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )
    return _page(
        "Settings of the operator",
        "Environment variables of its process (`deploy/kustomize/deployment.yaml`). What concerns one cluster is in "
        "its resource.",
        ("", _table(("Variable", "Default", "Meaning"), rows)),
    )


def metrics() -> str:
    """Every metric, by the names under which Prometheus sees them."""
    found = (
        each for each in vars(Metrics(CollectorRegistry())).values() if isinstance(each, MetricWrapperBase)
    )
    rows = sorted(
        (
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
            family.type,
            ", ".join(each._labelnames),
            family.documentation,
        )
        for each in found
        for family in each.describe()
    )
    return _page(
        "Metrics",
        "At `/metrics` on port 8080 of each operator Pod (Service `mariadb-operator-metrics`, headless). Only the leader "
        "has those of clusters.",
        ("", _table(("Metric", "Type", "Labels", "Meaning"), rows)),
    )


def permissions() -> str:
    """What the operator may do in Kubernetes."""
    rows = (
        (
            ", ".join(f"`{each}`" for each in rule["resources"]),
            ", ".join(group or "core" for group in rule["apiGroups"]),
            ", ".join(rule["verbs"]),
            ", ".join(f"`{each}`" for each in rule.get("resourceNames") or ()) or "all",
            "everywhere" if role["kind"] == "ClusterRole" else "in its own namespace",
        )
        for role in yaml.safe_load_all(ROLES.read_text(encoding="utf-8"))
        for rule in role.get("rules") or ()
    )
    return _page(
        "Permissions of the operator",
        "From `deploy/kustomize/role.yaml`, where a comment says what each rule is for.",
        ("", _table(("Resources", "API group", "Verbs", "Names", "Where"), rows)),
    )


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, each in (schema.get("properties") or {}).items():
        inner = each.get("items", each)
        here = f"{path}{name}{'[]' if 'items' in each else ''}"
        needed = (
            " (required)" if name in (schema.get("required") or ()) and each.get("type") != "array" else ""
        )
        yield f"`{here}`{needed}", _type(each), _default(each), each.get("description", "")
        yield from _fields(inner, f"{here}.")


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{each}`" for each in schema["enum"])
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", ""))


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default is None or default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _rules(schema: Schema) -> Iterator[Mapping[str, str]]:
    yield from schema.get("x-kubernetes-validations") or ()
    for each in (schema.get("properties") or {}).values():
        yield from _rules(each)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    # `<name>` outside of code would be taken for an HTML element.
    return "".join(f"| {' | '.join(line)} |\n".replace("<", "&lt;") for line in lines)


def _page(title: str, about: str, *sections: tuple[str, str]) -> str:
    body = "\n".join((f"## {name}\n\n" if name else "") + text for name, text in sections)
    return f"# {title}\n\nGenerated by `{REMEDY}`; not edited by hand. {about}\n\n{body}"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Writes the CustomResourceDefinition from the models: `python -m mariadb_operator.api.crd [--check]`.

`--check` fails when the committed file is stale. Not for applying it to a cluster (deploy/kustomize/crds does).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mariadb_operator.api import group
from mariadb_operator.api.cluster import MariaDBCluster
from mariadb_operator.api.schema import Schema, paths, structural

HEADER = "# Generated from mariadb_operator/api by `python -m mariadb_operator.api.crd`: change the models, not this.\n"


def _column(name: str, path: str, description: str, *, kind: str = "string", wide: bool = False) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": 1} if wide else {})


COLUMNS = (
    _column("State", ".status.state", "State of the cluster."),
    _column("Ready", ".status.readyInstances", "Instances that are ready, of those wanted."),
    _column("Primary", ".status.primary", "Instance that takes writes."),
    _column("Lag", ".status.lag", "How far the slowest replica is behind."),
    _column("Last Failover", ".status.lastFailover", "How long ago a replica was promoted.", kind="date"),
    _column("Age", ".metadata.creationTimestamp", "How long ago the resource was made.", kind="date"),
    _column("Version", ".status.version", "Version that the primary reports.", wide=True),
    _column("Epoch", ".status.epoch", "Number of the primary in time.", kind="integer", wide=True),
)


def openapi() -> Schema:
    """The structural schema of the whole resource."""
    root = structural(MariaDBCluster, defaults=True)
    root["properties"]["status"] = structural(MariaDBCluster, defaults=False)["properties"]["status"]
    root["properties"] = {
        "apiVersion": {"type": "string", "description": f"Version of the API: {group.API_VERSION}."},
        "kind": {"type": "string", "description": f"Kind of the resource: {group.KIND}."},
        "metadata": {"type": "object"},
        **root["properties"],
    }
    return root


def manifest() -> Schema:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": group.CRD_NAME},
        "spec": {
            "group": group.GROUP,
            "names": {
                "kind": group.KIND,
                "listKind": group.LIST_KIND,
                "plural": group.PLURAL,
                "singular": group.SINGULAR,
                "shortNames": [group.SHORT_NAME],
                "categories": ["all", "databases"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": group.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": list(COLUMNS),
                    "schema": {"openAPIV3Schema": openapi()},
                }
            ],
        },
    }


def missing_fields(live: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that this operator writes or reads and the CustomResourceDefinition in the cluster does not know.

    The API server would prune them silently, so an operator that finds any must not lead.
    """
    versions = live.get("spec", {}).get("versions", [])
    served: Mapping[str, Any] = next((each for each in versions if each.get("name") == group.VERSION), {})
    known = {path for path, _ in paths(served.get("schema", {}).get("openAPIV3Schema", {}))}
    return tuple(path for path, _ in paths(openapi()) if path not in known)


def text() -> str:
    """The file as it should be committed."""
    return HEADER + yaml.safe_dump(manifest(), sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with --check say whether it is fresh."""
    parser = argparse.ArgumentParser(prog="python -m mariadb_operator.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when the file is stale")
    default = Path(__file__).parents[2] / "crds"
    parser.add_argument("--directory", type=Path, default=default, help="where the file is")
    options = parser.parse_args(arguments)
    path: Path = options.directory / f"{group.GROUP}_{group.PLURAL}.yaml"
    wanted = text()
    if options.check:
        if path.exists() and path.read_text() == wanted:
            return 0
        sys.stderr.write(f"{path} is stale: run python -m mariadb_operator.api.crd\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())

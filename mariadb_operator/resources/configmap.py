"""The ConfigMap that a Pod mounts: my.cnf and supervisor.sh, immutable and named by the hash of its content.

A Pod keeps the one it was created with; those that no Pod names any more are the caller's to delete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.resources.labels import Manifest, Owner, metadata
from mariadb_operator.runtime.errors import Permanent

MY_CNF: Final = "my.cnf"
SUPERVISOR: Final = "supervisor.sh"


class ConfigMapKeyMissing(Permanent):
    """A ConfigMap that the spec refers to has not the key."""


def user_configuration(spec: MariaDBClusterSpec, *, referred: Mapping[str, Any] | None) -> str:
    """The person's part of my.cnf: the ConfigMap's text, then the inline one, which therefore wins.

    `referred` is the ConfigMap that spec.myCnfConfigMapKeyRef names. Raises ConfigMapKeyMissing.
    """
    reference = spec.my_cnf_config_map_key_ref
    if reference is None:
        return spec.my_cnf or ""
    text = ((referred or {}).get("data") or {}).get(reference.key)
    if text is None:
        raise ConfigMapKeyMissing(
            f"spec.myCnfConfigMapKeyRef: ConfigMap {reference.name} has no key {reference.key}: add it, or correct"
            " the reference"
        )
    return "\n".join(part for part in (text, spec.my_cnf) if part)


def supervisor_script() -> str:
    """The text of the container's main process, as shipped with this operator."""
    return files("mariadb_operator.node").joinpath(SUPERVISOR).read_text(encoding="utf-8")


def config_map(owner: Owner, *, my_cnf: str, supervisor: str) -> Manifest:
    """The ConfigMap with this content; its name is in `metadata.name`."""
    data = {MY_CNF: my_cnf, SUPERVISOR: supervisor}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, owner.names.config_map(digest)),
        "immutable": True,
        "data": data,
    }

"""What a person asks of Pods, as one hash, and the image they run.

The hash covers the spec and the person's part of my.cnf, nothing of the operator's own: a new operator alone
recreates no Pod, and neither does a new imageTemplate (the resolved image is kept in status).
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from mariadb_operator.api.spec import MariaDBClusterSpec

_POD_FIELDS: Final = {
    "version",
    "image",
    "image_pull_policy",
    "image_pull_secrets",
    "port",
    "root_password_secret_key_ref",
    "resources",
    "affinity",
    "tolerations",
    "node_selector",
    "priority_class_name",
    "pod_labels",
    "pod_annotations",
    "termination_grace_period_seconds",
}


def template_hash(spec: MariaDBClusterSpec, *, user_my_cnf: str) -> str:
    """16 hexadecimal digits of what the spec asks of Pods; `user_my_cnf` is the ConfigMap's and the inline text.

    A field left at its default does not count, so that a field that comes with a new version changes no hash.
    """
    asked = spec.model_dump(mode="json", by_alias=True, include=_POD_FIELDS, exclude_defaults=True)
    content = json.dumps({"spec": asked, "myCnf": user_my_cnf}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def resolved_image(spec: MariaDBClusterSpec, *, template: str) -> str:
    """The image that the spec names, or that `template` (e.g. `mariadb:{version}`) makes of its version."""
    return spec.image if spec.image is not None else template.replace("{version}", spec.version or "")

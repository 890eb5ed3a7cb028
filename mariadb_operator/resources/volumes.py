"""The PersistentVolumeClaim of an instance.

Without ownerReference while the volume has to outlive the resource. Not for what is on the volume (supervisor.sh).
"""

from __future__ import annotations

from mariadb_operator.api.spec import MariaDBClusterSpec, VolumeDeletionPolicy
from mariadb_operator.api.types import amount
from mariadb_operator.resources.labels import Manifest, Owner, instance_labels, metadata


def outlives_resource(spec: MariaDBClusterSpec) -> bool:
    """Whether volumes and the credentials that open them stay when the resource is deleted."""
    return spec.volume_deletion_policy is VolumeDeletionPolicy.RETAIN


def volume_claim(
    owner: Owner, spec: MariaDBClusterSpec, *, ordinal: int, current: Manifest | None = None
) -> Manifest:
    """The claim as it should be; a `current` one that somebody made larger keeps its size: claims never shrink."""
    names = owner.names
    claim: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": _size(spec, current)}},
    }
    if spec.storage.storage_class_name is not None:
        claim["storageClassName"] = spec.storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(
            owner,
            names.volume_claim(ordinal),
            labels=instance_labels(owner.name, names.instance(ordinal)),
            owned=not outlives_resource(spec),
        ),
        "spec": claim,
    }


def _size(spec: MariaDBClusterSpec, current: Manifest | None) -> str:
    wanted = str(spec.storage.size)
    requested = (current or {}).get("spec", {}).get("resources", {}).get("requests", {}).get("storage")
    return str(requested) if requested is not None and amount(requested) > amount(wanted) else wanted

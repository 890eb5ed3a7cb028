"""The resource MariaDBCluster as a whole: read an object of the API, or say what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from mariadb_operator.api import spec_rules
from mariadb_operator.api.group import LEAVE_QUARANTINE_ANNOTATION
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.api.status_model import MariaDBClusterStatus
from mariadb_operator.api.types import Model, rules
from mariadb_operator.runtime.errors import Permanent


class InvalidSpec(Permanent):
    """The spec can't be read, although the API server let it in: an older CRD, or a rule switched off."""


class MariaDBCluster(Model):
    """A MariaDB cluster: a primary and its replicas, with failover, on volumes of their own."""

    model_config = ConfigDict(json_schema_extra=rules(*spec_rules.CLUSTER))

    spec: MariaDBClusterSpec = Field(description="The cluster that should exist.")
    status: MariaDBClusterStatus | None = Field(
        default=None, description="The cluster that exists, as the operator reports it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which resource it is, from its metadata."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    deletion_requested: bool = False
    finalizers: tuple[str, ...] = ()
    leave_quarantine: int | None = None  # the sequence number that a person confirmed by annotation


def read_identity(resource: Mapping[str, Any]) -> Identity:
    """The identity of an object of the API, whose metadata the API server vouches for."""
    metadata = resource["metadata"]
    confirmed = str((metadata.get("annotations") or {}).get(LEAVE_QUARANTINE_ANNOTATION, ""))
    return Identity(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deletion_requested=metadata.get("deletionTimestamp") is not None,
        finalizers=tuple(metadata.get("finalizers") or ()),
        leave_quarantine=int(confirmed) if re.fullmatch("[0-9]{1,15}", confirmed) else None,
    )


def read_spec(resource: Mapping[str, Any]) -> MariaDBClusterSpec:
    """The spec of an object of the API. Raises InvalidSpec naming field and value."""
    try:
        return MariaDBClusterSpec.model_validate(resource.get("spec") or {})
    except ValidationError as error:
        raise InvalidSpec(
            "; ".join(_problem(dict(each)) for each in error.errors(include_url=False))
        ) from None


def _problem(error: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in ("spec", *error["loc"]))
    given = "" if error["type"] == "missing" else f" (is {str(error['input'])[:80]!r})"
    return f"{path}: {error['msg']}{given}"

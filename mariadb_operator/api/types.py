"""Building blocks of the models: bounded strings, durations, quantities, and the base of every model.

Each carries what the CustomResourceDefinition needs to say (pattern, bounds, list keys), so that the schema is read
from the models and from nowhere else. What JSON schema has no word for goes in as `x-kubernetes-*`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel


class Rule(NamedTuple):
    """A CEL rule of the schema, with the words a person gets when it fails."""

    rule: str
    message: str
    value: str = ""  # CEL for the message where it should name what was given; `message` if that fails
    field: str = ""  # path below the object that carries the rule, e.g. ".size"
    reason: str = "FieldValueInvalid"

    def manifest(self) -> dict[str, str]:
        """The rule as x-kubernetes-validations takes it."""
        result = {"rule": self.rule, "message": self.message, "reason": self.reason}
        optional = {"messageExpression": self.value, "fieldPath": self.field}
        return result | {key: text for key, text in optional.items() if text}


class Model(BaseModel):
    """Base of all models: frozen, camelCase outside, unknown fields ignored (the API server has refused them)."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


def rules(*each: Rule) -> dict[str, Any]:
    """`json_schema_extra` of a model with these rules."""
    return {"x-kubernetes-validations": [rule.manifest() for rule in each]}


def map_by(key: str) -> dict[str, Any]:
    """`json_schema_extra` of a list whose items are told apart by this field."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DATA_KEY: Final = r"^[-._a-zA-Z0-9]+$"
DURATION: Final = r"^[0-9]{1,6}(ms|s|m|h)$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][-+]?[0-9]{1,2})?$"

ObjectName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
DataKey = Annotated[str, StringConstraints(pattern=DATA_KEY, min_length=1, max_length=253)]
Duration = Annotated[str, StringConstraints(pattern=DURATION, max_length=8)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=316)]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$", max_length=63)
]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
            "maxLength": 32,
        }
    ),
]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_POWERS: Final = {
    **{
        suffix: Decimal(1024) ** power
        for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
    },
    **{
        suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
    },
    "m": Decimal("0.001"),
    "": Decimal(1),
}


def seconds(duration: str) -> float:
    """The seconds of a duration such as `10s` or `500ms`. Raises ValueError when it is none."""
    match = re.fullmatch(r"([0-9]{1,6})(ms|s|m|h)", duration)
    if match is None:
        raise ValueError(f"{duration!r} is no duration: write it as 500ms, 10s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def amount(quantity: int | str) -> Decimal:
    """The value of a Kubernetes quantity such as `10Gi` or `500m`. Raises ValueError when it is none.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?:([eE][-+]?[0-9]{1,2})|([A-Za-z]*))", str(quantity))
    if match is None or (match[3] or "") not in _POWERS:
        raise ValueError(f"{quantity!r} is no quantity: write it as 10Gi, 500m or 2")
    return Decimal(match[1] + (match[2] or "")) * _POWERS[match[3] or ""]

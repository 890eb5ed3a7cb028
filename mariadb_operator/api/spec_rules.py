"""What the API server refuses beyond types and bounds: rules in CEL, with the words a person gets.

A rule on a field that comes or goes stands on its parent, since `oldSelf` on the field itself is skipped then.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
"""

from __future__ import annotations

from typing import Final

from mariadb_operator.api.group import GROUP
from mariadb_operator.api.owned_options import owned_options_pattern
from mariadb_operator.api.types import Rule


def _raw(text: str) -> str:
    """A raw string of CEL."""
    return f"r'{text}'"


_FORBIDDEN: Final = "FieldValueForbidden"
_OWNED: Final = _raw(owned_options_pattern())
# A default of {} is checked by the rules before its children's defaults are in: hence has() and orValue().
_DURATION_LIMITS: Final = (
    "!has(self.{field}) || (duration(self.{field}) >= duration('{least}')"
    " && duration(self.{field}) <= duration('24h'))"
)


def _same(parent: str, field: str) -> str:
    """The optional field is what it was, or absent as it was. Without orValue(), whose cost has no bound."""
    old = parent.replace("self", "oldSelf")
    return (
        f"has({parent}.{field}) == has({old}.{field})"
        f" && (!has({parent}.{field}) || {parent}.{field} == {old}.{field})"
    )


STORAGE: Final = (
    Rule(
        rule="quantity(string(self.size)).isGreaterThan(quantity('0'))",
        message="storage.size must be more than 0, e.g. 10Gi",
        field=".size",
    ),
    Rule(
        rule="quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
        message="storage.size may grow, never shrink",
        value="'storage.size is ' + string(oldSelf.size) + ' and may grow, never shrink: ' + string(self.size)"
        " + ' is less'",
        field=".size",
        reason=_FORBIDDEN,
    ),
    Rule(
        rule=_same("self", "storageClassName"),
        message="storage.storageClassName can't be changed: make a new cluster to move to another class",
        field=".storageClassName",
        reason=_FORBIDDEN,
    ),
)

FAILOVER: Final = (
    Rule(
        rule=_DURATION_LIMITS.format(field="maxWait", least="0s"),
        message="failover.maxWait must be between 0s and 24h, e.g. 10s",
        field=".maxWait",
    ),
)

HIGH_AVAILABILITY: Final = (
    Rule(
        rule=_DURATION_LIMITS.format(field="degradeAfter", least="1s"),
        message="highAvailability.degradeAfter must be between 1s and 24h, e.g. 10s",
        field=".degradeAfter",
    ),
    Rule(
        rule="self.?enabled.orValue(true) || self.?durability.orValue('Preferred') != 'Guaranteed'",
        message="durability Guaranteed needs highAvailability.enabled: true, since commits wait for a replica",
        field=".durability",
    ),
)

_RESERVED_PREFIX: Final = f"k.startsWith('{GROUP}/')"
RESERVED_LABELS: Final = Rule(
    rule=f"self.all(k, !{_RESERVED_PREFIX} && !k.startsWith('app.kubernetes.io/'))",
    message=f"podLabels may not set {GROUP}/... nor app.kubernetes.io/...: the operator selects by them",
    reason=_FORBIDDEN,
)
RESERVED_ANNOTATIONS: Final = Rule(
    rule=f"self.all(k, !{_RESERVED_PREFIX})",
    message=f"podAnnotations may not set {GROUP}/...: they are the operator's own",
    reason=_FORBIDDEN,
)


def _constant(field: str, remedy: str) -> Rule:
    """The field can't change once it is set."""
    return Rule(
        rule=f"!has(oldSelf.{field}) || (has(self.{field}) && self.{field} == oldSelf.{field})",
        message=f"{field} can't be changed once it is set: {remedy}",
        value=f"'{field} is %s and can not be changed: {remedy}'.format([oldSelf.{field}])",
        field=f".{field}",
        reason=_FORBIDDEN,
    )


SPEC: Final = (
    Rule(
        rule="has(self.version) != has(self.image)",
        message="give either version (e.g. 11.8) or image (e.g. mariadb:11.8.3), and not both",
    ),
    Rule(
        rule="self.highAvailability.durability != 'Guaranteed' || self.replicas >= 3",
        message="durability Guaranteed needs replicas: 3 or more, so that one may fail while another acknowledges",
        value="'durability Guaranteed needs 3 or more replicas, so that one may fail while another acknowledges;"
        " replicas is %d'.format([self.replicas])",
        field=".replicas",
    ),
    _constant("port", "make a new cluster to use another port"),
    _constant("database", "create further databases with SQL"),
    _constant("username", "create further accounts with SQL"),
    Rule(
        rule="has(self.username) == has(self.database)",
        message="username and database come together: the account gets its privileges on that database",
    ),
    Rule(
        rule="!has(self.passwordSecretKeyRef) || has(self.username)",
        message="passwordSecretKeyRef needs username: name the account whose password it is",
        field=".passwordSecretKeyRef",
    ),
    Rule(
        rule="!has(self.database) || !(self.database.lowerAscii() in"
        " ['mysql', 'sys', 'information_schema', 'performance_schema', 'mariadb_operator'])",
        message="database is the name of a system database: choose another",
        value="'database \"' + self.database + '\" is a system database: choose another name'",
        field=".database",
    ),
    Rule(
        rule="!has(self.username) || !self.username.matches('^(root|mysql|PUBLIC|mariadb_.*|repl_[0-9]+)$')",
        message="username is the name of a system account: choose another",
        value="'username \"' + self.username + '\" is a system account: choose another name'",
        field=".username",
    ),
    Rule(
        rule=_same("self.tls", "caSecretName"),
        message="tls.caSecretName can't be changed: replicas and clients trust the first one",
        field=".tls",
        reason=_FORBIDDEN,
    ),
    Rule(
        rule=f"!has(self.myCnf) || !self.myCnf.matches({_OWNED})",
        message="myCnf sets an option that the operator owns (port, datadir, replication, TLS...): remove it",
        value=f"'myCnf may not set \"' + self.myCnf.find({_OWNED}).trim() + '\": the operator owns this option, remove"
        " the line'",
        field=".myCnf",
        reason=_FORBIDDEN,
    ),
)

CLUSTER: Final = (
    Rule(
        rule="self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message="metadata.name must have at most 40 characters, begin with a lower-case letter and hold only a-z, 0-9"
        " and -: the names of Pods, volumes and Services are made of it",
    ),
)

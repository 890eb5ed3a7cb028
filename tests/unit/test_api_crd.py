"""The CustomResourceDefinition: structural, bounded, described, fresh; its rules and the models agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mariadb_operator.api import crd
from mariadb_operator.api.cluster import Identity, InvalidSpec, read_identity, read_spec
from mariadb_operator.api.intent import intent_of
from mariadb_operator.api.owned_options import owned_options_pattern
from mariadb_operator.api.schema import paths
from mariadb_operator.api.types import QUANTITY, amount, seconds
from mariadb_operator.resources import configuration
from statemachines.record import DurabilityMode, Intent, OnUncertainData
from statemachines.states import State

FIELDS = [(path, schema) for path, schema in paths(crd.openapi()) if path.startswith(("spec", "status"))]
NOT_STRUCTURAL = {
    "$ref",
    "$defs",
    "title",
    "propertyNames",
    "oneOf",
    "allOf",
    "not",
    "const",
    "exclusiveMinimum",
}


def minimal(**fields: Any) -> dict[str, Any]:
    return {"version": "11.8", "storage": {"size": "1Gi"}, **fields}


def test_the_committed_definition_is_fresh() -> None:
    assert crd.main(["--check"]) == 0


def test_a_stale_definition_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--directory", str(tmp_path)]
    assert crd.main(["--check", *place]) == 1
    assert "is stale: run python -m" in capsys.readouterr().err
    assert crd.main(place) == 0
    assert crd.main(["--check", *place]) == 0


@pytest.mark.parametrize(("path", "schema"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_is_structural_and_bounded(path: str, schema: dict[str, Any]) -> None:
    assert not NOT_STRUCTURAL & schema.keys()
    assert not isinstance(schema.get("additionalProperties"), bool)
    assert "null" not in str(schema.get("type"))
    if schema.get("x-kubernetes-int-or-string"):
        assert {"pattern", "maxLength"} <= schema.keys()
        return
    assert "anyOf" not in schema
    kind = schema["type"]
    if kind == "string":
        assert {"enum", "maxLength", "format"} & schema.keys()
    if kind == "integer":
        assert {"minimum", "maximum"} <= schema.keys()
    if kind == "array":
        assert "maxItems" in schema
        assert schema["x-kubernetes-list-type"] in {"map", "atomic"}
    if kind == "object" and "additionalProperties" in schema:
        assert "maxProperties" in schema
    if kind == "object" and "properties" in schema and "default" in schema:
        assert schema["default"] == {}


@pytest.mark.parametrize(("path", "schema"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_has_a_sentence_for_kubectl_explain(path: str, schema: dict[str, Any]) -> None:
    if path.endswith(("[]", "{}")) and schema["type" if "type" in schema else "anyOf"] != "object":
        return
    description = schema["description"]
    assert len(description.split()) >= 2
    assert description[0].isupper() or description.split(":")[0] in {"false", "true"}
    assert description.endswith(".")


def test_keys_of_list_maps_are_required() -> None:
    keyed = [(path, schema) for path, schema in FIELDS if "x-kubernetes-list-map-keys" in schema]
    assert keyed
    for path, schema in keyed:
        assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"]), path


def test_status_has_no_defaults_since_a_default_would_be_a_claim_nobody_made() -> None:
    assert [path for path, schema in FIELDS if path.startswith("status") and "default" in schema] == []


def test_an_older_definition_is_recognised_by_the_fields_it_lacks() -> None:
    manifest = crd.manifest()
    assert crd.missing_fields(manifest) == ()
    properties = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del properties["status"]["properties"]["durability"]
    missing = crd.missing_fields(manifest)
    assert "status.durability" in missing
    assert "status.durability.floor" in missing
    assert "spec.version" in crd.missing_fields({})


def test_the_longest_state_fits_into_the_status() -> None:
    longest: int = dict(FIELDS)["status.history[].from"]["maxLength"]
    assert max(len(state) for state in State) <= longest


OWNED = sorted(configuration._OWNED)


@pytest.mark.parametrize("owned", OWNED)
def test_the_api_server_refuses_every_option_that_the_operator_owns(owned: str) -> None:
    pattern = re.compile(owned_options_pattern())
    name = owned.replace("*", "-anything") if not owned.endswith("-*") else owned.replace("*", "anything")
    for text in (
        f"[mariadbd]\n{name}=1",
        f"[mariadbd]\n  {name.replace('-', '_')} = 1\n",
        f"[mariadbd]\r\nloose-{name}\r\n",
        f"[mariadbd]\nskip_{name} # why",
    ):
        assert pattern.search(text), text
        assert configuration.violations(text), text


@pytest.mark.parametrize(
    "line",
    [
        "# port = 1",
        "max-connections = 500",
        "innodb_buffer_pool_size=4G",
        "innodb-flush-log-at-timeout = 2",
        "binlog-expire-logs-seconds = 3600",
        "plugin-load-add = auth_pam",
        "userstat = 1",
        "sql-mode = ANSI",
        "tls_version = TLSv1.3",
    ],
)
def test_other_options_pass_the_api_server(line: str) -> None:
    assert re.search(owned_options_pattern(), f"[mariadbd]\n{line}\n") is None


def test_an_included_file_is_refused() -> None:
    assert re.search(owned_options_pattern(), "[mariadbd]\n!includedir /etc/my.cnf.d\n")


PIECES = [
    "[mariadbd]\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "=",
    "1",
    "#",
    "-",
    "_",
    "loose-",
    "skip_",
    "!include",
    "x",
    *OWNED,
]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_first_sieve_refuses_nothing_that_the_thorough_check_allows(text: str) -> None:
    if re.search(owned_options_pattern(), text):
        assert configuration.violations(text)


def test_the_smallest_spec_means_what_the_definition_says() -> None:
    spec = read_spec({"spec": minimal()})
    identity = Identity(name="db", namespace="default", uid="u", generation=4)
    assert intent_of(spec, identity, template_hash="h", term=7) == Intent(
        name="db", cluster_uid="u", generation=4, replicas=1, template_hash="h", term=7
    )


def test_the_intent_carries_what_the_spec_says() -> None:
    availability = {
        "durability": "Guaranteed",
        "degradeAfter": "1500ms",
        "failover": {"enabled": False, "maxWait": "2m", "onUncertainData": "Promote"},
    }
    spec = read_spec(
        {
            "spec": minimal(
                replicas=5, highAvailability=availability, suspend=True, volumeDeletionPolicy="Delete"
            )
        }
    )
    metadata = {
        "name": "db",
        "namespace": "default",
        "uid": "u",
        "generation": 2,
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {"mariadb.fsm.dev/leave-quarantine": "12"},
    }
    assert intent_of(spec, read_identity({"metadata": metadata})) == Intent(
        name="db",
        cluster_uid="u",
        generation=2,
        replicas=5,
        durability=DurabilityMode.GUARANTEED,
        degrade_after=1.5,
        failover_enabled=False,
        max_wait=120.0,
        on_uncertain_data=OnUncertainData.PROMOTE,
        suspend=True,
        deletion_requested=True,
        delete_volumes=True,
        leave_quarantine=12,
    )


def test_without_high_availability_nothing_is_promoted() -> None:
    spec = read_spec({"spec": minimal(replicas=3, highAvailability={"enabled": False})})
    intent = intent_of(spec, Identity(name="db", namespace="default", uid="u"))
    assert not intent.failover_enabled
    assert not intent.wants_semi_sync


@pytest.mark.parametrize("given", ["", "yes", "-1", "1e3", "9" * 40, "٣"])
def test_only_a_number_confirms_that_a_quarantine_may_end(given: str) -> None:
    metadata = {"name": "db", "namespace": "d", "uid": "u"}
    annotations = {"mariadb.fsm.dev/leave-quarantine": given}
    assert read_identity({"metadata": {**metadata, "annotations": annotations}}).leave_quarantine is None


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (None, "spec.storage: Field required"),
        ({"version": "11.8", "storage": {"size": "1Gi"}, "replicas": 99}, "spec.replicas"),
        ({"version": "11.8", "storage": {"size": "1Gi"}, "highAvailability": []}, "spec.highAvailability"),
        ({"version": 11.8, "storage": {"size": "1Gi"}}, "spec.version"),
    ],
)
def test_a_spec_that_slipped_past_the_api_server_is_refused_by_name(spec: Any, named: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(named)):
        read_spec({"spec": spec})


def test_fields_of_a_newer_version_are_no_reason_to_refuse() -> None:
    assert read_spec({"spec": minimal(fromTheFuture=1)}).version == "11.8"


@pytest.mark.parametrize(
    ("text", "expected"), [("0s", 0.0), ("500ms", 0.5), ("10s", 10.0), ("5m", 300.0), ("24h", 86_400.0)]
)
def test_durations_are_read_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "10", "s", "1.5s", "-1s", "10s\n", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("1Gi", "2Gi"),
        ("1G", "1Gi"),
        ("1023Mi", "1Gi"),
        (5, "6"),
        ("100m", "0.2"),
        ("1e3", "2k"),
        ("1E", "1Ei"),
    ],
)
def test_quantities_compare_by_what_they_mean(less: int | str, more: int | str) -> None:
    assert amount(less) < amount(more)


@given(st.from_regex(QUANTITY, fullmatch=True))
def test_whatever_the_definition_takes_as_a_quantity_can_be_read(text: str) -> None:
    assert amount(text) >= 0

"""What the operator reports: the status of a MariaDBCluster as it is stored.

Only shape and bounds; status.py maps it to and from the state machine's record. States, roles and positions are
strings here: a text that an older or newer operator, or a person, wrote there has to be readable before it can be
judged.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from mariadb_operator.api.types import Model, map_by

HISTORY_LIMIT: Final = 32
INSTANCE_LIMIT: Final = 16  # nine, and those that are leaving
MESSAGE_BYTES: Final = 512
EVIDENCE_BYTES: Final = 320
INSTANCE_GTID_BYTES: Final = 512
GUARD_LIMIT: Final = 12
WORD_BYTES: Final = 63

Word = Annotated[str, StringConstraints(max_length=WORD_BYTES)]
Message = Annotated[str, StringConstraints(max_length=MESSAGE_BYTES)]
Evidence = Annotated[str, StringConstraints(max_length=EVIDENCE_BYTES)]
Gtids = Annotated[str, StringConstraints(max_length=2048)]
InstanceGtid = Annotated[str, StringConstraints(max_length=INSTANCE_GTID_BYTES)]
Identity = Annotated[str, StringConstraints(max_length=128)]
Counter = Annotated[int, Field(ge=0, le=2**53, json_schema_extra={"format": "int64"})]


class Role(StrEnum):
    """What an instance is in its cluster."""

    PRIMARY = "Primary"
    REPLICA = "Replica"
    JOINING = "Joining"
    KEPT_OUT = "KeptOut"
    UNKNOWN = "Unknown"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionStatusModel(Model):
    """One question about the cluster, with its answer."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=63)] = Field(
        description="The question: Ready, Progressing, ReplicationHealthy, FailoverAllowed or UpToDate."
    )
    status: ConditionStatus = Field(description="The answer: True, False or Unknown.")
    reason: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="", description="Why, in one CamelCase word for programs."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="Why, in a sentence for people."
    )
    last_transition_time: datetime = Field(description="When the answer last changed.")
    observed_generation: Counter = Field(
        default=0, description="The metadata.generation that the answer is about."
    )


class InstanceModel(Model):
    """One instance as last seen."""

    name: Word = Field(description="Name of the instance and of its Pod.")
    ordinal: Annotated[int, Field(ge=0, le=99)] = Field(description="Number of the instance, from 0.")
    role: Role = Field(
        description="Primary: takes writes. Replica: follows. Joining: on its way to follow. KeptOut: must not follow,"
        " message says why. Unknown: not seen."
    )
    ready: bool = Field(description="Whether it serves what its role promises.")
    gtid: InstanceGtid = Field(
        default="", description="How far its data is (gtid_binlog_pos), up to 30 s ago."
    )
    lag: Word = Field(default="", description="How far it is behind the primary, e.g. 2s, up to 30 s ago.")
    node: Annotated[str, StringConstraints(max_length=253)] = Field(
        default="", description="Kubernetes node on which it runs."
    )
    message: Message = Field(default="", description="What a person should know about it.")


class MemberModel(Model):
    """An instance that belongs to the cluster by decision, seen or not."""

    name: Word = Field(description="Name of the instance.")
    ordinal: Annotated[int, Field(ge=0, le=99)] = Field(description="Number of the instance, from 0.")
    kept_out: Message = Field(
        default="", description="Why it must not replicate: names the transactions that only it has."
    )
    leaving: bool = Field(default=False, description="Whether it is being removed.")
    complete: bool = Field(
        default=False,
        description="Whether it held everything the primary had at least once since its volume was empty; before that"
        " it is never promoted.",
    )
    redundant: bool = Field(
        default=False,
        description="Whether it was seen, while leaving, to hold nothing that the primary lacks; otherwise its volume"
        " is kept.",
    )


class WitnessModel(Model):
    """An instance that may have acknowledged commits."""

    name: Word = Field(description="Name of the instance.")
    incarnation: Identity = Field(
        default="",
        description="The start of its server in which it was seen to hold everything; empty: not yet.",
    )


class DurabilityModel(Model):
    """Who may have acknowledged what."""

    recorded: Word = Field(
        description="SemiSync: each commit waits for a replica. Asynchronous: commits do not wait, and the newest may"
        " exist on the primary only."
    )
    witnesses: Annotated[list[WitnessModel], Field(max_length=INSTANCE_LIMIT)] = Field(
        default=[],
        description="Instances that may have acknowledged commits; a promotion needs every one of them.",
        json_schema_extra=map_by("name"),
    )
    floor: Gtids = Field(
        default="",
        description="Position that is known to be acknowledged, up to 30 s ago: no instance behind it is promoted.",
    )
    base: Gtids | None = Field(
        default=None,
        description="Position with which the present epoch began: what it wrote itself is beyond it.",
    )
    unacknowledged: Counter = Field(
        default=0,
        description="Commits since the primary's server started whose clients heard OK though no replica acknowledged,"
        " because their query was killed while it waited.",
    )


class OperationModel(Model):
    """A failover under way."""

    id: Identity = Field(description="Identifies the operation in history, Events and logs.")
    kind: Word = Field(default="Failover", description="What is being done.")
    old_primary: Word = Field(description="Instance that was the primary.")
    started_at: datetime = Field(description="When it began.")
    deadline: datetime = Field(
        description="Until when the present step may last; a fence that is not complete then is decided by"
        " onUncertainData."
    )
    candidate: Word | None = Field(default=None, description="Instance that is to be the primary.")
    target_gtid: Gtids = Field(default="", description="Position that the candidate has to reach.")
    evidence: Evidence = Field(default="", description="What was observed that led here.")
    attempts: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=1, description="How many operator processes have worked on it."
    )
    proven: bool = Field(default=False, description="Whether the old primary was once proven dead.")
    by_policy: bool = Field(
        default=False, description="Whether it goes on without proof because onUncertainData is Promote."
    )
    tail_gtid: Gtids = Field(
        default="",
        description="Up to where the dead primary's volume holds transactions; the candidate has received them, or has"
        " them in a file.",
    )
    without_tail: bool = Field(
        default=False, description="Whether what only the dead primary's volume holds is left there."
    )


class HistoryModel(Model):
    """One transition of the state machine."""

    seq: Counter = Field(description="Number of the transition, counted since the cluster was made.")
    from_state: Word = Field(alias="from", description="State that was left.")
    to_state: Word = Field(alias="to", description="State that was entered.")
    trigger: Word = Field(default="", description="What caused it.")
    guards: Annotated[list[Word], Field(max_length=GUARD_LIMIT)] = Field(
        default=[],
        description="Questions that were answered yes; docs/machine explains each.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    at: datetime = Field(description="When it happened.")
    evidence: Evidence = Field(default="", description="What was observed that led to it.")
    operation: Identity = Field(default="", description="The operation to which it belongs, if any.")


class MariaDBClusterStatus(Model):
    """The cluster that exists."""

    state: Word | None = Field(
        default=None,
        description="State of the cluster: Provisioning, Replicating, Healthy, Degraded, FailingOver, Paused,"
        " Quarantined (a person has to decide, see message) or Deleting.",
    )
    substate: Word | None = Field(
        default=None, description="Step within the state, e.g. Fencing of FailingOver."
    )
    since: datetime | None = Field(default=None, description="Since when the cluster is in this state.")
    message: Message | None = Field(default=None, description="What a person should know, in a sentence.")
    record_version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        default=None,
        alias="schema",
        description="Version of this status's layout; a newer one than the operator knows is never guessed at.",
    )
    sequence: Counter | None = Field(default=None, description="Number of the last transition.")
    epoch: Counter | None = Field(
        default=None, description="Number of the primary in time: +1 at each promotion."
    )
    cluster_id: Identity | None = Field(
        default=None, description="Identity of the cluster's data, also on each volume."
    )
    primary: Word | None = Field(default=None, description="Instance that is the primary of this epoch.")
    primary_incarnation: Identity | None = Field(
        default=None, description="Start of the primary's server that was last seen."
    )
    primary_pod: Identity | None = Field(default=None, description="UID of the Pod in which that server ran.")
    primary_node: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None,
        description="Kubernetes node of that Pod: until it has ended, a successor runs there only.",
    )
    primary_ended: bool | None = Field(
        default=None, description="Whether that server was proven to have ended."
    )
    members: Annotated[list[MemberModel], Field(max_length=INSTANCE_LIMIT)] | None = Field(
        default=None,
        description="Instances that belong to the cluster, seen or not.",
        json_schema_extra=map_by("name"),
    )
    durability: DurabilityModel | None = Field(
        default=None, description="Who may have acknowledged which commits."
    )
    operation: OperationModel | None = Field(default=None, description="The failover under way, if any.")
    last_failover: datetime | None = Field(default=None, description="When a replica was last promoted.")
    refuted_at: datetime | None = Field(
        default=None, description="When a failover last ended without a promotion, in this epoch."
    )
    refuted_proven: bool | None = Field(
        default=None, description="Whether the primary was proven dead in that failover all the same."
    )
    history: Annotated[list[HistoryModel], Field(max_length=HISTORY_LIMIT)] | None = Field(
        default=None,
        description="The last transitions, oldest first.",
        json_schema_extra=map_by("seq"),
    )
    observed_generation: Counter | None = Field(
        default=None, description="The metadata.generation that this status is about."
    )
    image: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="Image that the instances run, as resolved from version or image."
    )
    version: Word | None = Field(default=None, description="Version that the primary's server reports.")
    replicas: Annotated[int, Field(ge=0, le=99)] | None = Field(
        default=None, description="Number of instances that exist."
    )
    ready_instances: Word | None = Field(
        default=None, description="Instances that are ready, of those wanted, e.g. 2/3."
    )
    selector: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="Label selector of the instances' Pods."
    )
    lag: Word | None = Field(
        default=None, description="How far the slowest replica is behind, e.g. 2s, up to 30 s ago."
    )
    instances: Annotated[list[InstanceModel], Field(max_length=INSTANCE_LIMIT)] | None = Field(
        default=None, description="Each instance as last seen.", json_schema_extra=map_by("name")
    )
    conditions: Annotated[list[ConditionStatusModel], Field(max_length=16)] | None = Field(
        default=None,
        description="Questions about the cluster with their answers.",
        json_schema_extra=map_by("type"),
    )

"""What a person may ask for: the spec of a MariaDBCluster.

Descriptions are what `kubectl explain` shows to somebody who has never seen the project. Optional means not
required and never null, and a parent with defaults inside defaults to {}. Not for what the operator reports
(status.py) nor for what the state machine reads (intent.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from mariadb_operator.api import spec_rules
from mariadb_operator.api.types import (
    AnnotationValue,
    DataKey,
    Duration,
    LabelKey,
    LabelValue,
    Model,
    ObjectName,
    Quantity,
    map_by,
    rules,
)
from statemachines.record import DurabilityMode, OnUncertainData


class PullPolicy(StrEnum):
    """When the image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Spread(StrEnum):
    """How instances are placed."""

    SPREAD = "Spread"
    NONE = "None"


class ServiceType(StrEnum):
    """How a Service is reachable."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class VolumeDeletionPolicy(StrEnum):
    """What becomes of the volumes when the resource is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class TolerationOperator(StrEnum):
    """How a toleration's key and value are compared with a taint's."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to Pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
Annotations = Annotated[dict[LabelKey, AnnotationValue], Field(max_length=32)]
Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16)]


class PasswordRef(Model):
    """One key of a Secret in the cluster's namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of this resource.")
    key: DataKey = Field(default="password", description="Key in the Secret that holds the password.")


class ConfigMapKeyRef(Model):
    """One key of a ConfigMap in the cluster's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap, in the namespace of this resource.")
    key: DataKey = Field(default="my.cnf", description="Key in the ConfigMap that holds the text.")


class LocalObjectRef(Model):
    """An object in the cluster's namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of this resource.")


class StorageSpec(Model):
    """The volume of each instance."""

    model_config = ConfigDict(json_schema_extra=rules(*spec_rules.STORAGE))

    size: Quantity = Field(
        description="Size of each instance's volume, e.g. 10Gi. It may grow later, where the StorageClass allows it,"
        " and never shrink."
    )
    storage_class_name: ObjectName | None = Field(
        default=None,
        description="StorageClass of the volumes; the default class of the Kubernetes cluster when absent. It can't"
        " be changed later.",
    )


class ResourcesSpec(Model):
    """CPU and memory of each instance."""

    requests: Quantities = Field(
        default={},
        description="What each instance is guaranteed, e.g. cpu: 500m and memory: 1Gi.",
    )
    limits: Quantities = Field(
        default={},
        description="What each instance may use at most. Keep memory well above innodb_buffer_pool_size.",
    )


class AffinitySpec(Model):
    """Where instances are placed."""

    preset: Spread = Field(
        default=Spread.SPREAD,
        description="Spread: instances avoid sharing a node or a zone, but start anyway when they must. None: the"
        " scheduler chooses freely.",
    )


class Toleration(Model):
    """A taint of nodes that the instances bear."""

    key: Annotated[str, StringConstraints(max_length=316)] | None = Field(
        default=None, description="Key of the taint; all taints when absent, with operator Exists."
    )
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL,
        description="Equal: key and value have to be the taint's. Exists: the value does not matter.",
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, with operator Equal.")
    effect: TaintEffect | None = Field(
        default=None, description="Effect of the taint; all effects when absent."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="With effect NoExecute: for how many seconds the taint is borne; for ever when absent.",
    )


class FailoverSpec(Model):
    """Promotion of a replica when the primary is dead."""

    model_config = ConfigDict(json_schema_extra=rules(*spec_rules.FAILOVER))

    enabled: bool = Field(
        default=True,
        description="Whether a replica is promoted when the primary is dead. false: replicate, report, and never"
        " promote.",
    )
    max_wait: Duration = Field(
        default="10s",
        description="How long a failover waits for replicas that may hold acknowledged commits, and for what it"
        " can't confirm, before onUncertainData decides. From 0s to 24h.",
    )
    on_uncertain_data: OnUncertainData = Field(
        default=OnUncertainData.WAIT,
        description="What to do when a promotion might lose acknowledged commits, or when the old primary can't be"
        " proven dead. Wait: stay without a primary and say why in the condition FailoverAllowed. Promote: go on and"
        " record what may be lost.",
    )


class HighAvailabilitySpec(Model):
    """Replication and failover."""

    model_config = ConfigDict(json_schema_extra=rules(*spec_rules.HIGH_AVAILABILITY))

    enabled: bool = Field(
        default=True,
        description="Whether commits wait for a replica's acknowledgement (semi-synchronous replication) and a dead"
        " primary is replaced. false: replicas follow asynchronously and nothing is promoted.",
    )
    durability: DurabilityMode = Field(
        default=DurabilityMode.PREFERRED,
        description="What happens to writes while no replica can acknowledge them. Preferred: after degradeAfter they"
        " go on without an acknowledgement, which status records. Guaranteed: they wait, and no acknowledged commit"
        " is ever lost; needs 3 replicas.",
    )
    degrade_after: Duration = Field(
        default="10s",
        description="With durability Preferred: how long writes wait for a replica before they go on without an"
        " acknowledgement. From 1s to 24h.",
    )
    failover: FailoverSpec = Field(
        default=FailoverSpec(), description="Promotion of a replica when the primary is dead."
    )


class ServiceSpec(Model):
    """How a Service is offered."""

    type: ServiceType = Field(
        default=ServiceType.CLUSTER_IP,
        description="ClusterIP: reachable inside the Kubernetes cluster only. NodePort or LoadBalancer: from outside,"
        " too.",
    )
    annotations: Annotations = Field(
        default={}, description="Annotations added to the Service, e.g. for a cloud's load balancer."
    )


class TlsSpec(Model):
    """Encryption of all connections, which is always on."""

    ca_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with a certificate authority of your own (keys tls.crt and tls.key) that signs the"
        " servers' certificates. Absent: the operator makes one for this cluster. It can't be changed later.",
    )


class MariaDBClusterSpec(Model):
    """The cluster that should exist."""

    model_config = ConfigDict(json_schema_extra=rules(*spec_rules.SPEC))

    version: (
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}[-._a-zA-Z0-9]*$", max_length=64)]
        | None
    ) = Field(
        default=None,
        description="MariaDB version, e.g. 11.8 or 10.11.19; the operator's imageTemplate makes an image of it. Give"
        " either version or image.",
    )
    image: (
        Annotated[
            str, StringConstraints(pattern=r"^[a-zA-Z0-9][-._:/@a-zA-Z0-9]*$", min_length=1, max_length=512)
        ]
        | None
    ) = Field(
        default=None,
        description="Container image to use as it is, e.g. mariadb:11.8.3; it needs mariadbd and its tools. Give"
        " either version or image.",
    )
    image_pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT, description="When the image is pulled from its registry."
    )
    image_pull_secrets: Annotated[list[LocalObjectRef], Field(max_length=8)] = Field(
        default=[],
        description="Secrets with the credentials of the image's registry.",
        json_schema_extra=map_by("name"),
    )
    port: Annotated[int, Field(ge=1024, le=65535)] = Field(
        default=3306, description="Port on which MariaDB listens. It can't be changed later."
    )
    replicas: Annotated[int, Field(ge=1, le=9)] = Field(
        default=1,
        description="Number of instances, the primary included: 1 is a single server, 3 survive the loss of one.",
    )
    storage: StorageSpec = Field(description="The volume of each instance.")
    my_cnf: Annotated[str, StringConstraints(max_length=16384)] | None = Field(
        default=None,
        description="Text of a my.cnf, with its [mariadbd] section, that is read before the operator's own settings."
        " Options that the operator owns (port, datadir, replication, TLS...) are refused. At most 16 KiB: put more"
        " into a ConfigMap.",
    )
    my_cnf_config_map_key_ref: ConfigMapKeyRef | None = Field(
        default=None, description="ConfigMap with a my.cnf that is read before myCnf."
    )
    root_password_secret_key_ref: PasswordRef | None = Field(
        default=None,
        description="Secret with the password of root@localhost, set when an instance is created. Absent: one is"
        " generated into the Secret <name>-credentials.",
    )
    database: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", min_length=1, max_length=64)] | None
    ) = Field(
        default=None,
        description="Database that is created for the application. Once set it can't be changed.",
    )
    username: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", min_length=1, max_length=80)] | None
    ) = Field(
        default=None,
        description="Account that is created for the application, with all privileges on database; the Secret"
        " <name>-app tells how to connect. Once set it can't be changed.",
    )
    password_secret_key_ref: PasswordRef | None = Field(
        default=None,
        description="Secret with the password of username. Absent: one is generated.",
    )
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="CPU and memory of each instance.")
    affinity: AffinitySpec = Field(
        default=AffinitySpec(), description="How instances are placed in relation to each other."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default=[],
        description="Taints of nodes that the instances bear, in addition to not-ready and unreachable nodes.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    node_selector: Labels = Field(default={}, description="Labels that a node needs to run an instance.")
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the instances' Pods."
    )
    pod_labels: Labels = Field(
        default={},
        description="Labels added to the instances' Pods.",
        json_schema_extra=rules(spec_rules.RESERVED_LABELS),
    )
    pod_annotations: Annotations = Field(
        default={},
        description="Annotations added to the instances' Pods.",
        json_schema_extra=rules(spec_rules.RESERVED_ANNOTATIONS),
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=86_400)] = Field(
        default=300,
        description="Seconds that an instance gets to shut down and to hand its last transactions to its replicas"
        " before it is killed.",
    )
    high_availability: HighAvailabilitySpec = Field(
        default=HighAvailabilitySpec(), description="Replication and failover."
    )
    primary_service: ServiceSpec = Field(
        default=ServiceSpec(), description="The read-write Service <name>-primary."
    )
    replicas_service: ServiceSpec = Field(
        default=ServiceSpec(), description="The read-only Service <name>-replicas."
    )
    suspend: bool = Field(
        default=False,
        description="true: the operator observes and reports, and acts on nothing, not even on a dead primary.",
    )
    tls: TlsSpec = Field(default=TlsSpec(), description="Encryption of all connections, which is always on.")
    volume_deletion_policy: VolumeDeletionPolicy = Field(
        default=VolumeDeletionPolicy.RETAIN,
        description="What becomes of volumes and credentials when this resource is deleted. Retain: they stay, with"
        " all data. Delete: they are deleted with it, for good; and the volume of an instance that is scaled in, once it was"
        " seen to hold nothing of its own.",
    )

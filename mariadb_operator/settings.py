"""Settings of the operator process, from the environment (prefix MARIADB_OPERATOR_) or the command line."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class LogFormat(StrEnum):
    """How logs are written."""

    JSON = "json"
    CONSOLE = "console"


class Settings(BaseSettings):
    """Everything that can be set for the process; what concerns one cluster is in its resource."""

    model_config = SettingsConfigDict(env_prefix="MARIADB_OPERATOR_", frozen=True)

    namespace: str = Field(default="mariadb-operator-system", description="Namespace of the leader's Lease.")
    lease_name: str = Field(default="mariadb-operator", description="Name of the leader's Lease.")
    lease_seconds: Annotated[float, Field(ge=2.0, le=120.0)] = Field(
        default=5.0, description="How long after a leader's silence another process may take over."
    )
    identity: str = Field(
        default="", description="Name of this process, e.g. its Pod; the host name when empty."
    )
    watch_namespace: str = Field(
        default="", description="Look after the clusters of one namespace; empty: all."
    )
    image_template: Annotated[str, Field(pattern=r"\{version\}")] = Field(
        default="mariadb:{version}", description="Makes an image of spec.version."
    )
    sidecar_image: str = Field(
        default="",
        description="Image of the node sidecar in new Pods: the operator's own; empty: Pods are made without one.",
    )
    cluster_domain: str = Field(default="cluster.local", description="DNS domain of the Kubernetes cluster.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="How many clusters are worked on at the same moment."
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Port of /metrics; 0: none."
    )
    health_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8081, description="Port of /healthz and /readyz; 0: none."
    )
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")

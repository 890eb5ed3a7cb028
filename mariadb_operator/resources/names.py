"""Names of every object that belongs to a cluster. Nothing else spells such a name.

A cluster's name has at most 40 characters (a rule of the resource), so that each name here stays a DNS label.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_INSTANCES = 9


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one cluster's objects."""

    cluster: str
    namespace: str

    def instance(self, ordinal: int) -> str:
        """The instance, and its Pod."""
        return f"{self.cluster}-{ordinal}"

    def ordinal(self, instance: str) -> int | None:
        """The ordinal of an instance of this cluster; None when the name is not one of ours."""
        prefix, _, digits = instance.rpartition("-")
        if prefix != self.cluster or not (digits.isascii() and digits.isdigit()):
            return None
        return int(digits) if str(int(digits)) == digits else None

    def volume_claim(self, ordinal: int) -> str:
        """The PersistentVolumeClaim of an instance."""
        return f"data-{self.instance(ordinal)}"

    @property
    def primary_service(self) -> str:
        """The read-write Service."""
        return f"{self.cluster}-primary"

    @property
    def replicas_service(self) -> str:
        """The read-only Service."""
        return f"{self.cluster}-replicas"

    @property
    def instances_service(self) -> str:
        """The headless Service that gives instances their DNS names."""
        return f"{self.cluster}-instances"

    @property
    def primary_endpoints(self) -> str:
        """The EndpointSlice of the read-write Service."""
        return f"{self.primary_service}-ipv4"

    @property
    def replicas_endpoints(self) -> str:
        """The EndpointSlice of the read-only Service."""
        return f"{self.replicas_service}-ipv4"

    @property
    def credentials_secret(self) -> str:
        """Passwords of the operator's, the probe's, the replication and other generated accounts."""
        return f"{self.cluster}-credentials"

    @property
    def ca_secret(self) -> str:
        """The cluster's own certificate authority, key included."""
        return f"{self.cluster}-ca"

    @property
    def tls_secret(self) -> str:
        """The servers' certificate and the CA's certificate."""
        return f"{self.cluster}-tls"

    @property
    def ssh_secret(self) -> str:
        """The keys by which the operator and the node sidecars know each other."""
        return f"{self.cluster}-ssh"

    @property
    def app_secret(self) -> str:
        """What an application needs to connect."""
        return f"{self.cluster}-app"

    @property
    def budget(self) -> str:
        """The PodDisruptionBudget."""
        return self.cluster

    def config_map(self, digest: str) -> str:
        """The immutable ConfigMap whose content has this digest (8 hexadecimal digits)."""
        return f"{self.cluster}-config-{digest}"

    def host(self, service: str) -> str:
        """The DNS name under which clients in the Kubernetes cluster reach a Service of this cluster."""
        return f"{service}.{self.namespace}.svc"

    def instance_host(self, ordinal: int) -> str:
        """The DNS name of one instance, by the headless Service."""
        return f"{self.instance(ordinal)}.{self.host(self.instances_service)}"


def server_id(ordinal: int) -> int:
    """The server_id of an instance: stable, unique within the cluster, never 0."""
    return ordinal + 1


def replication_account(ordinal: int) -> str:
    """The account with which this instance replicates from whoever is primary."""
    return f"repl_{ordinal}"


def replication_password_key(ordinal: int) -> str:
    """The key of that account's password in the credentials Secret."""
    return f"replication-{ordinal}"

"""From the spec to the machine's intent: what a person asks for, reduced to what decisions need."""

from __future__ import annotations

from mariadb_operator.api.cluster import Identity
from mariadb_operator.api.spec import MariaDBClusterSpec, VolumeDeletionPolicy
from mariadb_operator.api.types import seconds
from statemachines.record import Intent


def intent_of(
    spec: MariaDBClusterSpec, identity: Identity, *, template_hash: str = "", term: int = 0
) -> Intent:
    """The intent. `template_hash` is the hash of what Pods should be, `term` this leader's."""
    availability = spec.high_availability
    failover = availability.failover
    return Intent(
        name=identity.name,
        cluster_uid=identity.uid,
        generation=identity.generation,
        replicas=spec.replicas,
        high_availability=availability.enabled,
        durability=availability.durability,
        degrade_after=seconds(availability.degrade_after),
        failover_enabled=availability.enabled and failover.enabled,
        max_wait=seconds(failover.max_wait),
        on_uncertain_data=failover.on_uncertain_data,
        suspend=spec.suspend,
        deletion_requested=identity.deletion_requested,
        delete_volumes=spec.volume_deletion_policy is VolumeDeletionPolicy.DELETE,
        template_hash=template_hash,
        leave_quarantine=identity.leave_quarantine,
        term=term,
    )

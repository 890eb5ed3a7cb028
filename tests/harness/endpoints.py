"""Every state that a primary's EndpointSlice went through, as a watch saw it: what a poll would miss.

Not for what clients see: writing.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.harness.cluster import Cluster
from tests.harness.kube import Watch, wait_for
from tests.harness.local import HarnessError

EPOCH = "mariadb.fsm.dev/epoch"
WATCHED_SECONDS = 600
ENDED_SECONDS = 10


@dataclass(slots=True)
class Recorded:
    """For each write of the slice, oldest first: the epoch that it was made for, and the address that it names."""

    epochs: list[int] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def record(self, changes: Watch) -> None:
        """Until the watch ends."""
        try:
            for _, endpoint_slice in changes:
                self.epochs.append(int(endpoint_slice["metadata"]["annotations"][EPOCH]))
                endpoints = endpoint_slice.get("endpoints") or []
                self.addresses.append(
                    ",".join(address for each in endpoints for address in each["addresses"])
                )
        except Exception as error:  # noqa: BLE001  # a thread's end must be seen
            self.failure = error


@contextmanager
def primary_endpoints(cluster: Cluster) -> Iterator[Recorded]:
    """Records the primary's EndpointSlice for as long as the block lasts; the API server has to stay.

    Raises:
        HarnessError: the watch ended before the block did.
    """
    recorded = Recorded()
    name = f"{cluster.name}-primary-ipv4"
    with cluster.kube.watch("endpointslices", cluster.namespace, name, seconds=WATCHED_SECONDS) as changes:
        reader = threading.Thread(target=recorded.record, args=(changes,), daemon=True)
        reader.start()
        try:
            wait_for("the slice as it is", lambda: bool(recorded.epochs) or recorded.failure, seconds=30)
            yield recorded
            if recorded.failure is not None or not reader.is_alive():
                raise HarnessError(f"the watch of {name} ended early: {recorded.failure}")
        finally:
            changes.end()
            reader.join(ENDED_SECONDS)

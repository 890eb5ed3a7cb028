"""When servers should read their certificate anew: a renewed Secret reaches their files some minutes later, unseen.

Reading what has not changed costs nothing, so this goes by time: every five minutes for the first hour of a
certificate, then once a day. Not for renewing it (act.trust).
"""

from __future__ import annotations

from datetime import timedelta

from mariadb_operator.act.trust import Trust
from mariadb_operator.runtime.clock import Clock

YOUNG = timedelta(hours=1)
YOUNG_SECONDS = 300.0
OLD_SECONDS = 86400.0


class CertificateReload:
    """Of one cluster."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._certificate = ""
        self._due = 0.0

    def is_due(self, trust: Trust) -> bool:
        """Whether the servers should read it now; True once per turn."""
        now = self._clock.monotonic()
        if trust.server_certificate != self._certificate:
            self._certificate = trust.server_certificate
            self._due = now + YOUNG_SECONDS
            return False
        if now < self._due:
            return False
        young = self._clock.wall() - trust.issued_at < YOUNG
        self._due = now + (YOUNG_SECONDS if young else OLD_SECONDS)
        return True

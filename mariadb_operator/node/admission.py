"""Whether a request for a change is of this cluster, of its present and new; pure, and strict.

Epoch and term are compared each for itself: a leader that was followed by another has no say, whatever epoch it
claims, and an epoch that ended has none, whoever leads. Not for what the request does (verbs.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from mariadb_operator.node.protocol import Authority, Reason
from mariadb_operator.node.volume import REMEMBERED_REQUESTS, Ledger
from mariadb_operator.runtime.errors import Permanent

_RECENT = 4096


class Refused(Permanent):
    """The request was refused; nothing was done."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Admission:
    """Remembers what was seen: the highest epoch and term, the cluster, and the last requests."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._recent = OrderedDict.fromkeys(ledger.requests)

    def admit(self, authority: Authority) -> None:
        """Let the request in, once; from now on nothing lower is. Raises Refused."""
        known = self.ledger
        if known.cluster_id not in ("", authority.cluster_id):
            raise Refused(Reason.FOREIGN, "this volume is of another cluster")
        if authority.epoch < known.epoch:
            raise Refused(Reason.STALE, f"epoch {authority.epoch} is below {known.epoch}")
        if authority.term < known.term:
            raise Refused(Reason.STALE, f"term {authority.term} is below {known.term}")
        if authority.request_id in self._recent:
            raise Refused(Reason.REPEATED, "this request was here before")
        self._recent[authority.request_id] = None
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        self.ledger = replace(
            known, cluster_id=authority.cluster_id, epoch=authority.epoch, term=authority.term
        )

    def draft(self, authority: Authority, *, fenced: bool, truncated: str = "") -> Ledger:
        """What has to be on the volume before this request is answered."""
        return replace(
            self.ledger,
            fenced=fenced,
            truncated=truncated or self.ledger.truncated,
            requests=(*self.ledger.requests, authority.request_id)[-REMEMBERED_REQUESTS:],
        )

    def take(self, ledger: Ledger) -> None:
        """It holds from now on."""
        self.ledger = replace(
            self.ledger, fenced=ledger.fenced, truncated=ledger.truncated, requests=ledger.requests
        )

    def is_current(self, authority: Authority) -> bool:
        """Whether nothing newer was let in since."""
        return (authority.epoch, authority.term) == (self.ledger.epoch, self.ledger.term)

"""What asking a sidecar can end in; each says what it means for the request.

Not for what follows from it: nothing of this says anything about mariadbd.
"""

from __future__ import annotations

from mariadb_operator.node.protocol import Reason, Refusal
from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain


class SidecarUnreachable(Transient):
    """No session came about, so nothing was asked: refused, silent, or the session was closed before."""


class SidecarUnproven(Transient):
    """Somebody answered who is not the sidecar that was meant, or who does not take our key; nothing was asked.

    Transient because an address changes hands with its Pod, and keys are rotated.
    """


class AnswerLost(Uncertain):
    """It was asked and no readable answer came: it may have been done."""


class Refused(OperatorError):
    """The sidecar read the request and refused it; nothing was done."""

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedNow(Refused, Transient):
    """It may be done later, or after another look."""


class RefusedForGood(Refused, Permanent):
    """It will not be done: whoever asks is of the past, of another cluster, or speaks another language."""


_FOR_NOW = frozenset({
    Reason.ANOTHER_START,
    Reason.NOT_ASKED,
    Reason.FENCED,
    Reason.NOT_STORED,
    Reason.NOT_RECORDED,
    Reason.BUSY,
})  # fmt: skip


def refused(refusal: Refusal, *, what: str) -> Refused:
    """The error for a refusal."""
    kind = RefusedNow if refusal.refused in _FOR_NOW else RefusedForGood
    return kind(f"{what}: {refusal.refused.value}: {refusal.detail}", reason=refusal.refused)

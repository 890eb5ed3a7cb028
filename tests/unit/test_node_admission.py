"""Which requests for a change a sidecar lets in."""

from __future__ import annotations

import pytest

from mariadb_operator.node.admission import Admission, Refused
from mariadb_operator.node.protocol import Authority, Reason
from mariadb_operator.node.volume import REMEMBERED_REQUESTS, Ledger

KNOWN = Ledger(cluster_id="c", epoch=3, term=7)


def asked(request_id: str = "r", *, cluster_id: str = "c", epoch: int = 3, term: int = 7) -> Authority:
    return Authority(cluster_id=cluster_id, epoch=epoch, term=term, request_id=request_id)


def refused(admission: Admission, authority: Authority) -> Reason:
    before = admission.ledger
    with pytest.raises(Refused) as caught:
        admission.admit(authority)
    assert admission.ledger == before
    return caught.value.reason


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        (asked(cluster_id="another"), Reason.FOREIGN),
        (asked(cluster_id="another", epoch=9, term=9), Reason.FOREIGN),
        (asked(epoch=2), Reason.STALE),
        (asked(epoch=2, term=9), Reason.STALE),
        (asked(term=6), Reason.STALE),
        (asked(epoch=9, term=6), Reason.STALE),  # a leader that was followed by another
    ],
)
def test_what_is_of_another_cluster_or_of_the_past_is_refused(authority: Authority, reason: Reason) -> None:
    assert refused(Admission(KNOWN), authority) is reason


def test_what_was_let_in_raises_the_bar() -> None:
    admission = Admission(KNOWN)
    admission.admit(asked("1"))
    admission.admit(asked("2", epoch=4))
    assert refused(admission, asked("3")) is Reason.STALE
    admission.admit(asked("4", epoch=4, term=8))
    assert refused(admission, asked("5", epoch=4)) is Reason.STALE
    assert not admission.is_current(asked(epoch=4))
    assert admission.is_current(asked(epoch=4, term=8))


def test_an_unasked_volume_belongs_to_who_asks_first() -> None:
    admission = Admission(Ledger())
    admission.admit(asked("1"))
    assert refused(admission, asked("2", cluster_id="another")) is Reason.FOREIGN


def test_a_request_is_let_in_once_also_after_a_restart() -> None:
    admission = Admission(KNOWN)
    admission.admit(asked("once"))
    assert refused(admission, asked("once")) is Reason.REPEATED
    restarted = Admission(admission.draft(asked("once"), fenced=True))
    assert refused(restarted, asked("once")) is Reason.REPEATED


def test_the_ledger_stays_small() -> None:
    admission = Admission(KNOWN)
    for number in range(100):
        admission.admit(asked(f"r{number}"))
        admission.take(admission.draft(asked(f"r{number}"), fenced=False))
    assert len(admission.ledger.requests) == REMEMBERED_REQUESTS
    assert admission.ledger.requests[-1] == "r99"


def test_a_start_that_may_cut_off_transactions_stays_recorded() -> None:
    admission = Admission(KNOWN)
    admission.take(admission.draft(asked("1"), fenced=False, truncated="abc"))
    assert admission.draft(asked("2"), fenced=True).truncated == "abc"


def test_what_is_taken_lowers_no_bar() -> None:
    admission = Admission(KNOWN)
    admission.admit(asked("1"))
    draft = admission.draft(asked("1"), fenced=True)
    admission.admit(asked("2", epoch=4))
    admission.take(draft)
    assert admission.ledger.epoch == 4
    assert admission.ledger.fenced

"""What people read: conditions, the instances' lines and the sentences of Events, from a situation. Pure.

Not for deciding: the same guards that decide are asked here, so that a condition never tells another story.
"""

from __future__ import annotations

from mariadb_operator.api.conditions import Condition, ConditionType
from mariadb_operator.api.status import InstanceStatus, Observed, lag_text
from mariadb_operator.api.status_model import Role
from mariadb_operator.resources.labels import selector_text
from statemachines import election
from statemachines import guards as g
from statemachines.cluster import TABLE
from statemachines.detection import ANALYSES, Analysis, analyse
from statemachines.facts import InstanceFacts
from statemachines.permission import failover_blocked_by
from statemachines.record import DurabilityMode, HistoryEntry, Member, Recorded, Situation, account
from statemachines.states import FAILING_OVER, STATES, State
from statemachines.witnesses import PURGED

_BLOCKED = {
    "FailoverDisabled": "highAvailability.enabled or highAvailability.failover.enabled is false",
    "NoReplica": "there is one instance only; set spec.replicas to 3",
    "NoCandidate": "no replica answers that could be promoted",
    "Asynchronous": "commits do not wait for a replica (durability.recorded is Asynchronous), so a promotion could"
    " lose some; it goes on by itself when a replica acknowledges again, or set onUncertainData to Promote",
    "WitnessMissing": "an instance that may hold acknowledged commits does not answer, or has restarted without"
    " catching up, or is the primary itself (durability.witnesses); bring it back, or set onUncertainData to Promote to"
    " accept a possible loss",
    "PrimaryNotProvenDead": "the primary is silent but not proven dead; make sure that its node is off and taint it"
    " node.kubernetes.io/out-of-service, or set onUncertainData to Promote to accept a possible loss",
    "Quarantined": "a person has to decide, see status.message",
    "Paused": "spec.suspend is true",
}


def observed(s: Situation, *, image: str, generation: int) -> Observed:
    """The part of the status that is not the record."""
    instances = tuple(_instance(s, member) for member in s.record.members)
    primary = s.snapshot.instance(s.record.primary)
    server = primary.answering if primary is not None else None
    lags = [_lag(s, member) for member in s.record.replicas]
    known = [each for each in lags if each is not None]
    return Observed(
        observed_generation=generation,
        image=image,
        wanted=s.intent.replicas,
        replicas=len(instances),
        selector=selector_text(s.intent.name),
        instances=instances,
        conditions=conditions(s),
        version=server.version if server is not None else "",
        lag=lag_text(max(known)) if known else "",
    )


def conditions(s: Situation) -> tuple[Condition, ...]:
    """The five questions."""
    return (_ready(s), _progressing(s), _replication(s), _failover(s), _up_to_date(s))


def _answer(kind: ConditionType, holds: bool | None, reason: str, message: str) -> Condition:
    return Condition(type=kind, holds=holds, reason=reason, message=message)


def _ready(s: Situation) -> Condition:
    if g.primary_open(s) and s.record.operation is None:
        return _answer(ConditionType.READY, True, "PrimaryServes", f"{s.record.primary} takes writes")
    if s.snapshot.problem:
        return _answer(ConditionType.READY, False, s.snapshot.problem_reason, s.snapshot.problem)
    if s.record.state is State.QUARANTINED:
        return _answer(ConditionType.READY, False, "Quarantined", s.record.message)
    broken = next((f for f in s.snapshot.instances if f.pod is not None and f.pod.problem), None)
    if broken is not None and broken.pod is not None:
        message = f"{broken.name}: {broken.pod.problem}{remedy(broken.pod.problem_reason)}"
        return _answer(ConditionType.READY, False, broken.pod.problem_reason, message)
    if s.record.state in FAILING_OVER or s.record.epoch == 0:
        return _answer(ConditionType.READY, False, s.record.state.top, STATES[s.record.state].text)
    analysis = analyse(s.record, s.snapshot)
    if analysis is Analysis.NO_PROBLEM:
        return _answer(ConditionType.READY, False, "PrimaryReadOnly", f"{s.record.primary} is being opened")
    return _answer(ConditionType.READY, False, str(analysis), ANALYSES[analysis])


def remedy(reason: str) -> str:
    """What to do about a Pod that does not run."""
    match reason:
        case "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull":
            return "; correct spec.image or spec.version, or spec.imagePullSecrets"
        case "ConfigurationRejected":
            return "; correct spec.myCnf or the ConfigMap of spec.myCnfConfigMapKeyRef"
        case "ImageHasNoMariadbd":
            return "; name an image with mariadbd in spec.image"
        case "Unschedulable":
            return (
                "; look at spec.resources, spec.nodeSelector, spec.tolerations and the volumes"
                " (kubectl describe pod, kubectl get pvc)"
            )
        case _:
            return ""


def _progressing(s: Situation) -> Condition:
    kind = ConditionType.PROGRESSING
    if s.snapshot.problem:
        return _answer(kind, False, s.snapshot.problem_reason, s.snapshot.problem)
    if s.record.state in (State.PAUSED, State.QUARANTINED):
        text = s.record.message or STATES[s.record.state].text
        return _answer(kind, False, s.record.state.value, text)
    if s.record.state is State.HEALTHY:
        return _answer(kind, True, "Complete", "everything is as the spec asks")
    return _answer(kind, True, s.record.state.top, STATES[s.record.state].text)


def _replication(s: Situation) -> Condition:
    kind = ConditionType.REPLICATION_HEALTHY
    if s.intent.replicas == 1 and not s.record.replicas:
        return _answer(kind, True, "SingleInstance", "there is nothing to replicate to")
    for member in s.record.replicas:
        reason, message = _trouble(s, member)
        if reason:
            return _answer(kind, False, reason, f"{member.name}: {message}")
    if void := _guarantee_void(s):
        return _answer(kind, False, "GuaranteeVoid", void)
    if len(s.record.members) < s.intent.replicas:
        return _answer(kind, False, "MembersMissing", "instances are being added")
    if s.intent.wants_semi_sync and s.record.durability.recorded is Recorded.ASYNCHRONOUS:
        return _answer(kind, False, "Asynchronous", "commits do not wait for a replica's acknowledgement")
    return _answer(
        kind, True, "Replicating", "every instance receives and applies, and acknowledges as asked"
    )


def _guarantee_void(s: Situation) -> str:
    """Why the loss of one node, or of a stranger, could take acknowledged commits along though Guaranteed is asked for."""
    primary = s.snapshot.instance(s.record.primary)
    if s.intent.durability is not DurabilityMode.GUARANTEED or primary is None or primary.pod is None:
        return ""
    for witness in s.record.durability.witnesses:
        facts = s.snapshot.instance(witness.name)
        pod = facts.pod if facts is not None else None
        if witness.name != s.record.primary and pod is not None and pod.node and pod.node == primary.pod.node:
            return (
                f"{witness.name} runs on {pod.node}, as does the primary {s.record.primary}: one node holds both copies"
                f" of what it acknowledges. Delete Pod {witness.name} when another node has room for it"
            )
    server = primary.answering
    ours = {account(member.ordinal) for member in s.record.members}
    if server is not None and server.semi_sync.clients > len(server.connected_accounts & ours):
        strangers = ", ".join(sorted(server.connected_accounts - ours)) or "unknown"
        return (
            f"a replica that is none of this cluster's acknowledges commits of {s.record.primary} (accounts: {strangers});"
            " set rpl_semi_sync_slave_enabled = OFF there"
        )
    return ""


def warnings(s: Situation) -> tuple[tuple[str, str], ...]:
    """What a person should know and no condition tells: a reason and a sentence each."""
    found = []
    for member in s.record.members:
        facts = s.snapshot.instance(member.name)
        admins = facts.answering.read_only_admins if facts is not None and facts.answering is not None else ()
        if admins:
            text = (
                f"{member.name}: {', '.join(sorted(admins))} may write though the server is read-only, as it is until it is"
                " made the primary; REVOKE READ_ONLY ADMIN ON *.* from these accounts"
            )
            found.append(("ReadOnlyAdmins", text))
    return tuple(found)


def _failover(s: Situation) -> Condition:
    kind = ConditionType.FAILOVER_ALLOWED
    reason = failover_blocked_by(s)
    if not reason:
        return _answer(kind, True, "Allowed", "a dead primary would be replaced")
    detail = "; ".join(
        f"{each.name}: {', '.join(each.unfit)}"
        for each in election.rank(s.record, s.snapshot, by_policy=g.promote_allowed(s))
        if each.unfit
    )
    message = _BLOCKED.get(reason, reason)
    return _answer(kind, False, reason, f"{message} ({detail})" if detail else message)


def _up_to_date(s: Situation) -> Condition:
    kind = ConditionType.UP_TO_DATE
    stale = [
        facts.name
        for facts in s.snapshot.instances
        if facts.pod is not None and s.intent.template_hash and facts.pod.spec_hash != s.intent.template_hash
    ]
    if not stale:
        return _answer(kind, True, "UpToDate", "every Pod was made from the present spec")
    message = (
        f"made from an earlier spec: {', '.join(stale)}; delete a Pod to have it made anew, replicas first and one"
        " after the other"
    )
    return _answer(kind, False, "PodsOutdated", message)


def _instance(s: Situation, member: Member) -> InstanceStatus:
    facts = s.snapshot.instance(member.name)
    server = facts.answering if facts is not None else None
    role = _role(s, member, facts)
    lag = _lag(s, member)
    _, message = _trouble(s, member)
    told = "; ".join(text for _, text in warnings(s) if text.startswith(f"{member.name}: "))
    return InstanceStatus(
        name=member.name,
        ordinal=member.ordinal,
        role=role,
        ready=g.primary_open(s) if role is Role.PRIMARY else role is Role.REPLICA,
        gtid=str(server.executed) if server is not None else "",
        lag=lag_text(lag) if lag is not None else "",
        node=(facts.pod.node or "") if facts is not None and facts.pod is not None else "",
        message=message or told.removeprefix(f"{member.name}: "),
    )


def _role(s: Situation, member: Member, facts: InstanceFacts | None) -> Role:
    if member.name == s.record.primary:
        return Role.PRIMARY
    if member.kept_out:
        return Role.KEPT_OUT
    if facts is None or facts.answering is None:
        return Role.UNKNOWN
    counted = not s.intent.wants_semi_sync or election.present(s.record, facts)
    return Role.REPLICA if counted and member.complete and g.attached(s, facts) is not None else Role.JOINING


def _lag(s: Situation, member: Member) -> float | None:
    facts = s.snapshot.instance(member.name)
    server = facts.answering if facts is not None else None
    if server is None or server.replication is None or member.name == s.record.primary:
        return None
    return server.replication.seconds_behind


def _trouble(s: Situation, member: Member) -> tuple[str, str]:
    """What is the matter with an instance: a reason and a sentence; empty when nothing is."""
    facts = s.snapshot.instance(member.name)
    if member.kept_out:
        return "InstanceKeptOut", (
            f"{member.kept_out}; it has data that the primary lacks and is not touched. Save what you need from it,"
            f" then delete Pod {member.name} and PersistentVolumeClaim data-{member.name} to have it seeded again"
        )
    if member.leaving:
        return "InstanceLeaving", "it is being removed" + _fate_of_volume(s, member)
    if facts is None or facts.pod is None:
        return "InstanceMissing", "it has no Pod"
    if facts.pod.problem:
        return facts.pod.problem_reason, facts.pod.problem + remedy(facts.pod.problem_reason)
    if facts.answering is None:
        return "InstanceNotAnswering", facts.probe.detail or "it does not answer"
    return ("", "") if member.name == s.record.primary else _replication_trouble(s, facts)


def _fate_of_volume(s: Situation, member: Member) -> str:
    if not s.intent.delete_volumes or member.redundant:
        return ""
    return f"; PersistentVolumeClaim data-{member.name} is kept unless it is seen to hold nothing that the primary lacks"


def _replication_trouble(s: Situation, facts: InstanceFacts) -> tuple[str, str]:
    replication = facts.answering.replication if facts.answering is not None else None
    if replication is not None and replication.io_errno == PURGED:
        return "BinlogPurged", (
            "the primary's binary logs no longer reach back to where it is; it waits until its data is copied"
            f" ({replication.io_error[:160]})"
        )
    if replication is not None and replication.sql_errno:
        return "ApplierFailed", f"error {replication.sql_errno}: {replication.sql_error[:240]}"
    if g.attached(s, facts) is None:
        error = replication.io_error[:240] if replication is not None else ""
        return "InstanceNotAttached", error or "it does not receive from the primary yet"
    return "", ""


def sentence(entry: HistoryEntry) -> str:
    """The text of a transition's Event."""
    row = next(
        (
            each
            for each in TABLE
            if each.trigger == entry.trigger and each.source is entry.source and each.target is entry.target
        ),
        None,
    )
    text = row.text if row is not None else entry.trigger
    target = _words(entry.target)
    arrow = target if entry.source is entry.target else f"{_words(entry.source)} -> {target}"
    evidence = f" [{entry.evidence}]" if entry.evidence else ""
    # Numbered as in the history: several fall into one second, by which kubectl sorts them.
    return f"#{entry.sequence} {arrow}: {text}{evidence}"


def _words(state: State) -> str:
    return f"{state.top} ({state.substate})" if state.substate else state.top


def is_warning(entry: HistoryEntry) -> bool:
    """Whether a person may want to look."""
    return entry.target in (State.DEGRADED, State.QUARANTINED, State.CONFIRMING, State.FENCING)

"""Failure analysis: one pure function from the facts to a named code, and the proofs of a primary's death.

What an on-call person reads first: the docstrings in ANALYSES say what each code means and what follows from it.
Silence is never death (invariant 5). Not for what is done about it: failover.py.
"""

from __future__ import annotations

from enum import StrEnum

from statemachines.facts import InstanceFacts, IoThread, Process, Reach, ServerFact, Snapshot, Writing
from statemachines.record import Record


class Analysis(StrEnum):
    """What is the matter with the primary."""

    NO_PRIMARY = "NoPrimary"
    NO_PROBLEM = "NoProblem"
    NOT_YET_OBSERVED = "NotYetObserved"
    PRIMARY_RESTARTED = "PrimaryRestarted"
    PRIMARY_PRESENT = "PrimaryPresent"
    PRIMARY_DEAD = "PrimaryDead"
    PRIMARY_REFUSING = "PrimaryRefusing"
    PRIMARY_TERMINATING = "PrimaryTerminating"
    PRIMARY_MISSING = "PrimaryMissing"
    PRIMARY_HUNG = "PrimaryHung"
    PRIMARY_UNREACHABLE = "PrimaryUnreachable"
    PRIMARY_UNREACHABLE_BUT_REPLICATING = "PrimaryUnreachableButReplicating"
    OPERATOR_ISOLATED = "OperatorIsolated"
    DISK_FULL = "DiskFull"
    READ_ONLY_FILESYSTEM = "ReadOnlyFilesystem"
    IO_STALLED = "IoStalled"


ANALYSES: dict[Analysis, str] = {
    Analysis.NO_PRIMARY: "No epoch has begun: there is no primary yet.",
    Analysis.NO_PROBLEM: "The primary answers. Nothing follows.",
    Analysis.NOT_YET_OBSERVED: "The primary was not asked yet (the operator has just started). Nothing follows.",
    Analysis.PRIMARY_RESTARTED: (
        "The primary's server answers, but it is another start of it: on the same node, that proves the one before "
        "dead, since only one can hold the volume's lock. With no "
        "operation open it is reopened; with one open, the failover goes on only if every witness is present."
    ),
    Analysis.PRIMARY_PRESENT: (
        "The primary is alive but does not let the operator in (too many connections, wrong password, TLS). Alive is "
        "alive: no failover. Look at the credentials Secret, and at who else uses the operator's port."
    ),
    Analysis.PRIMARY_DEAD: "The primary's death is proven; the proof is named in the history. Failover.",
    Analysis.PRIMARY_REFUSING: (
        "The primary's address answers but nobody listens, and the replicas have not confirmed yet that they lost it. "
        "They are asked at once; a server that is shutting down refuses while it still acknowledges."
    ),
    Analysis.PRIMARY_TERMINATING: (
        "The primary's Pod is being deleted and its server does not answer; the kubelet's word that it ended is awaited."
    ),
    Analysis.PRIMARY_MISSING: (
        "The Pod in which the primary served is gone, which proves nothing: its server may live on. A successor Pod on "
        "the same volume proves the death when it gets the volume's lock and answers. When the replicas have lost that "
        "server, they are fenced meanwhile."
    ),
    Analysis.PRIMARY_HUNG: (
        "The primary is silent to the operator and either to its own sidecar, or to its replicas while its node is fine: "
        "probably frozen. It is killed, by its sidecar or its kubelet, before anything else."
    ),
    Analysis.PRIMARY_UNREACHABLE: (
        "The primary is silent, its replicas lost it, and its node is not known to be fine. It may still be running: "
        "what follows is decided by onUncertainData."
    ),
    Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING: (
        "The operator does not reach the primary, a replica does. The fault is between operator and primary: no action."
    ),
    Analysis.OPERATOR_ISOLATED: "No instance answers the operator: the fault may be its own. No action.",
    Analysis.DISK_FULL: (
        "The primary answers, but its volume is full: every commit hangs. After 5 s it is killed by its sidecar and a "
        "replica whose volume has room is promoted. Enlarge the volume."
    ),
    Analysis.READ_ONLY_FILESYSTEM: (
        "The primary answers, but its file system takes no writes, as the kernel does after an error of the disk. After "
        "5 s it is killed by its sidecar and a replica is promoted. Look at the node's disk."
    ),
    Analysis.IO_STALLED: (
        "The primary answers, but a small write of its own does not end. After 5 s it is killed by its sidecar and a "
        "replica is promoted. Look at the node's disk; a process that hangs in the disk can't be seen to end."
    ),
}

UNABLE_TO_WRITE = {
    Writing.DISK_FULL: Analysis.DISK_FULL,
    Writing.READ_ONLY: Analysis.READ_ONLY_FILESYSTEM,
    Writing.STALLED: Analysis.IO_STALLED,
}


class Proof(StrEnum):
    """Evidence that the primary's server process ended."""

    PROCESS_ENDED = "ProcessEnded"
    VOLUME_FREE = "VolumeFree"
    CONTAINER_TERMINATED = "ContainerTerminated"
    RESTARTED = "Restarted"
    REFUSED_AND_DISCONNECTED = "RefusedAndDisconnected"
    NODE_OFF = "NodeOff"
    ENDED_EARLIER = "EndedEarlier"


PROOFS: dict[Proof, str] = {
    Proof.PROCESS_ENDED: ("The sidecar next to it saw that server process end, or its supervisor reaped it."),
    Proof.VOLUME_FREE: (
        "The volume's lock, which that server would hold, was got on the node where it ran, by the sidecar of a successor "
        "whose own server is held."
    ),
    Proof.CONTAINER_TERMINATED: "A Ready node reported the server's container terminated, for the Pod it ran in.",
    Proof.RESTARTED: (
        "Another start of the server answers from its volume, whose lock only one can hold, on the node where the one "
        "before ran; elsewhere only once that one was seen to end."
    ),
    Proof.REFUSED_AND_DISCONNECTED: (
        "Nobody listens at the address of the same Pod, which is not being deleted, and no replica that answers is "
        "connected to it."
    ),
    Proof.NODE_OFF: "A person confirmed with the out-of-service taint that the node is off.",
    Proof.ENDED_EARLIER: "It was proven before, by one of the other proofs, and noted in the status.",
}


SILENCE_BEFORE_SUSPICION = 2.0  # seconds; replicas notice a frozen primary after 3.2 s (FACTS.md), no sooner
REFUSING_SECONDS = 10.0  # a server in SHUTDOWN refuses for a while and still feeds its replicas


def fresh_replicas(record: Record, snapshot: Snapshot, *, since: float) -> tuple[tuple[str, ServerFact], ...]:
    """Replicas that answered a question asked after `since`."""
    answers = ((member.name, snapshot.instance(member.name)) for member in record.replicas)
    return tuple(
        (name, facts.answering)
        for name, facts in answers
        if facts is not None and facts.answering is not None and facts.answering.asked_at >= since
    )


def _receives(server: ServerFact) -> bool:
    return server.replication is not None and server.replication.io_thread is IoThread.RUNNING


def proofs(record: Record, snapshot: Snapshot) -> tuple[Proof, ...]:
    """Every proof of the death of the server start that served this epoch; empty: not proven."""
    primary = snapshot.instance(record.primary)
    if primary is None or not record.primary_incarnation or serves(record, primary):
        return ()
    found: list[Proof] = []
    if _seen_to_end(record, primary):
        found.append(Proof.PROCESS_ENDED)
    if _volume_free(record, primary):
        found.append(Proof.VOLUME_FREE)
    if record.primary_pod in primary.ended_pods:
        found.append(Proof.CONTAINER_TERMINATED)
    if _restarted(record, primary):
        found.append(Proof.RESTARTED)
    if _refused_and_disconnected(record, snapshot, primary):
        found.append(Proof.REFUSED_AND_DISCONNECTED)
    served_here = primary.pod is not None and primary.pod.uid == record.primary_pod
    if primary.home_off or (primary.node_off and served_here):
        found.append(Proof.NODE_OFF)
    if record.primary_ended:
        found.append(Proof.ENDED_EARLIER)
    return tuple(found)


def serves(record: Record, primary: InstanceFacts) -> bool:
    """Whether it answers in the server start that serves this epoch, and its sidecar did not see that one end since."""
    same = primary.answering is not None and primary.answering.incarnation == record.primary_incarnation
    return same and not _seen_to_end(record, primary)


def _seen_to_end(record: Record, primary: InstanceFacts) -> bool:
    word = primary.sidecar
    return (
        word is not None
        and word.process is Process.ENDED
        and bool(word.incarnation)
        and word.incarnation == record.primary_incarnation
    )


def _volume_free(record: Record, primary: InstanceFacts) -> bool:
    word, pod = primary.at_hand, primary.pod
    if word is None or pod is None or not (word.held and word.free):
        return False
    return record.primary_ended or record.primary_node in ("", pod.node)


def _restarted(record: Record, primary: InstanceFacts) -> bool:
    """The volume's lock is of one kernel: an answer from another node says nothing of a server that was not seen to end."""
    if primary.answering is None or primary.answering.incarnation == record.primary_incarnation:
        return False
    node = primary.pod.node if primary.pod is not None else None
    return record.primary_ended or record.primary_node in ("", node)


def _refused_and_disconnected(record: Record, snapshot: Snapshot, primary: InstanceFacts) -> bool:
    pod = primary.pod
    if primary.probe.reach is not Reach.REFUSED or pod is None or pod.deleting:
        return False
    if not (pod.uid == primary.probe.pod_uid == record.primary_pod):
        return False
    fresh = fresh_replicas(record, snapshot, since=primary.probe.since)
    reachable = [
        member.name
        for member in record.replicas
        if (facts := snapshot.instance(member.name)) is not None and facts.answering is not None
    ]
    return bool(fresh) and len(fresh) == len(reachable) and not any(_receives(server) for _, server in fresh)


def analyse(record: Record, snapshot: Snapshot) -> Analysis:
    """Name what is the matter with the primary."""
    if record.primary is None or record.epoch == 0:
        return Analysis.NO_PRIMARY
    primary = snapshot.instance(record.primary)
    if primary is None:
        return Analysis.PRIMARY_MISSING
    if primary.answering is not None and (told := _analyse_answer(record, primary, primary.answering)):
        return told
    if proofs(record, snapshot):
        return Analysis.PRIMARY_DEAD
    match primary.probe.reach:
        case Reach.PRESENT:
            return Analysis.PRIMARY_PRESENT
        case Reach.REFUSED if _feeds_on(record, snapshot, primary):
            return Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING
        case Reach.REFUSED:
            terminating = primary.pod is not None and primary.pod.deleting
            return Analysis.PRIMARY_TERMINATING if terminating else Analysis.PRIMARY_REFUSING
        case _:
            return _analyse_silence(record, snapshot, primary)


def _analyse_answer(record: Record, primary: InstanceFacts, answer: ServerFact) -> Analysis | None:
    """None where its sidecar has seen that server end since it answered."""
    if answer.incarnation != record.primary_incarnation:
        return Analysis.PRIMARY_RESTARTED
    if not serves(record, primary):
        return None
    word = primary.at_hand
    if word is None:
        return Analysis.NO_PROBLEM
    return UNABLE_TO_WRITE.get(word.writing, Analysis.NO_PROBLEM)


def _feeds_on(record: Record, snapshot: Snapshot, primary: InstanceFacts) -> bool:
    """Whether a replica receives from a primary that has refused us for longer than a shutdown would."""
    fresh = fresh_replicas(record, snapshot, since=snapshot.now - SILENCE_BEFORE_SUSPICION)
    return snapshot.now - primary.probe.since >= REFUSING_SECONDS and any(
        _receives(each) for _, each in fresh
    )


def _successor(record: Record, primary: InstanceFacts) -> bool:
    """Whether the Pod is not the one that served this epoch: what it does not answer says nothing of that one."""
    return primary.pod is not None and primary.pod.uid != record.primary_pod


def _analyse_silence(record: Record, snapshot: Snapshot, primary: InstanceFacts) -> Analysis:
    if primary.probe.reach is Reach.UNKNOWN and primary.pod is not None:
        return Analysis.NOT_YET_OBSERVED
    word = primary.at_hand
    if word is not None and word.answers is False and word.incarnation == record.primary_incarnation:
        return Analysis.PRIMARY_HUNG  # two views, one of them without a network between
    fresh = fresh_replicas(record, snapshot, since=primary.probe.since)
    if not fresh:
        alone = not record.replicas
        return Analysis.PRIMARY_MISSING if alone and primary.pod is None else Analysis.OPERATOR_ISOLATED
    if any(_receives(server) for _, server in fresh):
        return Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING
    if primary.pod is None or _successor(record, primary):
        return Analysis.PRIMARY_MISSING
    if primary.pod.deleting:
        return Analysis.PRIMARY_TERMINATING
    return Analysis.PRIMARY_HUNG if primary.node_ready else Analysis.PRIMARY_UNREACHABLE

"""The judge: sees everything that happens, whoever else does, and names the invariant that does not hold.

Under `onUncertainData: Wait` no acknowledged commit may be missing from any later primary, whatever was recorded; exempt
is what docs/durability.md exempts. Under Promote what the promoted one lacks is the owner's loss, and no more than that.
Not for liveness (scenario.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mariadb_operator.kube.kinds import Manifest
from tests.simulation.mariadb import Server
from tests.simulation.volumes import Kind, Transaction, Volume

if TYPE_CHECKING:
    from tests.simulation.world import World


class Violation(AssertionError):
    """An invariant of DESIGN.md does not hold; the text begins with its number."""


@dataclass(slots=True)
class Counts:
    """What has happened, for people."""

    failovers: int = 0
    adoptions: int = 0
    acknowledged: int = 0
    exempt: int = 0
    accepted_losses: int = 0


@dataclass(slots=True)
class Judge:
    """Of one world."""

    world: World
    safe: set[Transaction] = field(default_factory=set)
    acknowledgers: dict[int, str] = field(default_factory=dict)  # the instance by epoch
    counts: Counts = field(default_factory=Counts)
    status: Manifest = field(default_factory=dict)
    by_policy: bool = False  # somebody was promoted without proof or witness, because Promote accepts it
    excused: set[str] = field(
        default_factory=set
    )  # server starts that were replaced while they may have lived

    # --- what servers do ---

    def written(self, server: Server, transaction: Transaction) -> None:
        """A transaction was logged where it was made."""
        transaction.errant = self.status.get("primary") not in (None, server.name)

    def released(self, server: Server, transaction: Transaction, *, by: str | None, killed: bool) -> None:
        """A client hears OK. `by`: who acknowledged; None: nobody."""
        if transaction.kind is not Kind.ROW or transaction.rogue:
            return
        self.counts.acknowledged += 1
        status, world = self.status, self.world
        world.trace(f"{server.name} acknowledges {transaction}" + (f" by {by}" if by else ""))
        if killed:
            self.counts.exempt += 1
            return
        epoch = status.get("epoch", 0)
        if server.name != status.get("primary") or server.opened_epoch != epoch:
            if server.incarnation in self.excused:
                self.counts.exempt += 1
                return
            raise Violation(
                f"1: {server.incarnation}, opened in epoch {server.opened_epoch}, acknowledges {transaction} though"
                f" {status.get('primary')} is primary of epoch {epoch}"
            )
        other = self.acknowledgers.setdefault(epoch, server.name)
        if other != server.name:
            raise Violation(f"1: {other} and {server.name} both acknowledged in epoch {epoch}")
        self._check_durability(transaction, by)
        self.safe.add(transaction)

    def _check_durability(self, transaction: Transaction, by: str | None) -> None:
        durability = self.status.get("durability") or {}
        if by is None:
            if durability.get("recorded") == "SemiSync":
                raise Violation(f"2: {transaction} was acknowledged by nobody while SemiSync is recorded")
        elif by not in {each["name"] for each in durability.get("witnesses") or ()}:
            raise Violation(f"2: {by} acknowledges {transaction} and is no witness")

    def opened(self, server: Server) -> None:
        """A server was made writable."""
        status = self.status
        self.world.trace(f"{server.incarnation} is opened")
        if status.get("primary") == server.name and status.get("primaryIncarnation") == server.incarnation:
            server.opened_epoch = status["epoch"]
            return
        if server.incarnation in self.excused:
            return
        raise Violation(
            f"1: {server.incarnation} is opened, while the status names {status.get('primary')}"
            f" ({status.get('primaryIncarnation')}) as primary of epoch {status.get('epoch')}"
        )

    def wiped(self, server: Server, relay: list[Transaction]) -> None:
        """A START SLAVE, or a RESET, has wiped what was received and not applied."""
        self.world.trace(f"{server.name} wipes {len(relay)} received transactions")
        only = [each for each in relay if each in self.safe and not self._held_elsewhere(each, server.volume)]
        if only:
            raise Violation(f"3: {server.name} wipes {only[0]}, acknowledged and held by nobody else")

    def _held_elsewhere(self, transaction: Transaction, volume: Volume) -> bool:
        return any(
            transaction in node.volume.held
            or (node.volume is not volume and transaction in node.volume.relay)
            for node in self.world.nodes
        )

    def forgotten(self, volume: Volume) -> None:
        """A machine lost its power, and with it what was not synced. Nobody's fault; named for the trace."""
        self.world.trace("power is lost, with what relay logs held in memory")

    def deleted(self, volume: Volume, name: str) -> None:
        """The operator deleted a volume."""
        others = [node.volume for node in self.world.nodes if node.volume is not volume]
        only = [each for each in volume.log if not any(each in other.held for other in others)]
        if only:
            raise Violation(f"3: the volume of {name} is deleted, which alone held {only[0]}")

    # --- what the operator writes ---

    def status_written(self, before: Manifest, after: Manifest) -> None:
        """The status is another one from now on."""
        self.status = after
        self._trace(before, after)
        epoch, primary = after.get("epoch", 0), after.get("primary")
        if epoch == before.get("epoch", 0):
            if epoch and primary != before.get("primary"):
                raise Violation(f"1: {primary} replaces {before.get('primary')} within epoch {epoch}")
            if epoch and after["primaryIncarnation"] != before["primaryIncarnation"]:
                self._adopted(before, after)
            return
        if epoch == 1:
            return
        self.counts.failovers += 1
        operation = after.get("operation") or before.get("operation") or {}
        self._promoted(before, after, by_policy=bool(operation.get("byPolicy")))

    def _trace(self, before: Manifest, after: Manifest) -> None:
        seen = {each["seq"] for each in before.get("history") or ()}
        for entry in after.get("history") or ():
            if entry["seq"] not in seen:
                self.world.trace(
                    f"status #{entry['seq']}: {entry['from']} -> {entry['to']} by {entry['trigger']}"
                    f" [{entry.get('evidence', '')}]"
                )
        for name in ("epoch", "primary", "primaryIncarnation", "durability", "members"):
            if before.get(name) != after.get(name):
                self.world.trace(f"status: {name} = {after.get(name)}")

    def _adopted(self, before: Manifest, after: Manifest) -> None:
        """The primary goes on in another start of its server."""
        self.counts.adoptions += 1
        self._check_dead(before)
        volume = self.world.node(after["primary"]).volume
        missing = [each for each in self.safe if each not in volume.held]
        if missing:
            raise Violation(f"2: {after['primaryIncarnation']} is primary again without {missing[0]}")

    def _promoted(self, before: Manifest, after: Manifest, *, by_policy: bool) -> None:
        volume = self.world.node(after["primary"]).volume
        self._check_content(volume, after["primary"])
        missing = {each for each in self.safe if each not in volume.held}
        if by_policy:
            self.by_policy = True
            self.counts.accepted_losses += len(missing)
            self.safe -= missing
            self.excused.add(before["primaryIncarnation"])
        else:
            self._check_dead(before)
            if missing:
                raise Violation(
                    f"2: {after['primary']} is primary of epoch {after['epoch']} without {_some(missing)}"
                )
        for node in self.world.nodes:
            for each in (*(node.volume.held - volume.held), *node.volume.relay):
                each.errant = each.errant or each not in volume.held  # left behind for good

    def _check_content(self, volume: Volume, name: str) -> None:
        if any(each.errant for each in volume.held):
            raise Violation(f"4: {name} is promoted and errant")
        if not volume.epochs:
            raise Violation(f"4: {name} is promoted and empty")
        if volume.relay:
            raise Violation(f"4: {name} is promoted before it has applied what it received")

    def _check_dead(self, before: Manifest) -> None:
        server = self.world.node(before["primary"]).server
        if server is not None and server.incarnation == before["primaryIncarnation"]:
            raise Violation(f"5: {server.incarnation} is replaced and lives")

    # --- when all is quiet ---

    def check_settled(self) -> None:
        """Everybody who follows holds what the primary holds, and nothing acknowledged is missing."""
        primary = self.world.node(self.status["primary"])
        missing = {each for each in self.safe if each not in primary.volume.held}
        if missing:
            raise Violation(f"2: {primary.instance} lacks {_some(missing)} in the end")
        kept_out = {each["name"] for each in self.status["members"] if each.get("keptOut")}
        for node in self.world.nodes:
            if node is primary or node.instance in kept_out or node.server is None:
                continue
            last = node.volume.last.get(0)
            foreign = [
                each
                for each in node.volume.held - primary.volume.held
                if node.server.sql_running and last is not None and last.sequence > each.sequence
            ]
            if foreign:
                raise Violation(
                    f"4: {node.instance} goes on replicating with {_some(foreign)}, which the primary lacks"
                )
        self._prune(primary.volume)

    def _prune(self, volume: Volume) -> None:
        """What everybody has needs no watching any more."""
        if all(node.volume.held >= self.safe for node in self.world.members):
            self.safe = set(list(self.safe)[-1:])


def _some(transactions: Iterable[Transaction]) -> str:
    names = sorted(str(each) for each in transactions)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

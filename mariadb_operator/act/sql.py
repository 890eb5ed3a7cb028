"""Carries out the effects that are statements on a server. Each is idempotent and bounded; facts tell the result.

Not for choosing: the plan did. The order of statements inside an effect is sql/'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from mariadb_operator.act.credentials import Credentials
from mariadb_operator.act.servers import Servers
from mariadb_operator.resources.names import MAX_INSTANCES, replication_account
from mariadb_operator.runtime.errors import OperatorError, Transient
from mariadb_operator.sql import durability, replication, roles, terms
from mariadb_operator.sql.accounts import (
    Application,
    initialise_primary,
    keep_application,
    native_password_hash,
)
from mariadb_operator.sql.certificates import reload_certificates
from mariadb_operator.sql.errors import StateRefused, WrongState
from mariadb_operator.sql.replication import Source
from mariadb_operator.sql.sessions import kill_other_sessions, sessions
from mariadb_operator.sql.tails import TailSource, apply_tail
from mariadb_operator.sql.terms import Guard
from statemachines import effects as e
from statemachines.facts import ServerFact
from statemachines.gtid import Position

logger = logging.getLogger(__name__)

ACCOUNTS = frozenset(replication_account(number) for number in range(MAX_INSTANCES))
DRAIN_SECONDS = 5.0
SALVAGED_SECONDS = 600.0
EPOCH_SECONDS = 600.0
SENT_SECONDS = 0.002
SENT_LOOKS = 20


class PredecessorRemains(Transient):
    """Sessions of an earlier leader are still there."""


class OtherServerStart(Transient):
    """Another start of the server answers than the one that was decided on."""


Statement = (
    e.RaiseTerm
    | e.InitialisePrimary
    | e.OpenPrimary
    | e.WriteEpoch
    | e.SetSemiSync
    | e.ProveAcknowledgement
    | e.KeepApplication
    | e.ReloadCertificate
    | e.SetAccounts
    | e.Attach
    | e.StartApplying
    | e.StartReceiving
    | e.StopReceiving
    | e.Drain
    | e.Equalise
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the statements of one cluster need to know beside the effect."""

    port: int
    database: str | None
    username: str | None
    credentials: Credentials
    server: Callable[[str], ServerFact | None]  # the last answer of an instance

    @property
    def application(self) -> Application | None:
        """The application's account as the spec and its Secret have it; None where there is none."""
        if self.database is None or self.username is None:
            return None
        password = native_password_hash(self.credentials.application_password)
        return Application(database=self.database, username=self.username, password_hash=password)


class SqlEffects:
    """The statements of one cluster under one leader's term."""

    def __init__(
        self, group: asyncio.TaskGroup, servers: Servers, *, guard: Guard, target: Callable[[], Target]
    ) -> None:
        """`group` owns what outlives an effect: an epoch's transaction that waits for its acknowledgement."""
        self._group = group
        self._servers = servers
        self._guard = guard
        self._target = target
        self._writing: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._cleared: dict[
            str, str
        ] = {}  # by instance, the server start in which no predecessor's session is left

    def cleared(self, instance: str, incarnation: str) -> bool:
        """Whether no statement of an earlier leader runs, or will run, in this start of the server."""
        return self._cleared.get(instance) == incarnation

    async def run(self, effect: Statement) -> None:
        """Carry out one effect.

        Raises:
            StatementLost: the outcome is unknown; the session has to be seen gone before another is sent.
            OperatorError: it did not take place.
        """
        match effect:
            case e.WriteEpoch():
                await self._write_epoch(effect.instance, epoch=effect.epoch, cluster_id=effect.cluster_id)
            case e.ProveAcknowledgement():
                await self._prove(effect.instance)
            case e.KeepApplication():
                await self._keep_application(effect.instance)
            case e.Attach():
                await self._attach(effect)
            case e.OpenPrimary():
                await self._open(effect)
            case e.InitialisePrimary():
                await self._initialise(effect)
            case _:
                await self._simple(effect)

    async def _simple(
        self,
        effect: e.RaiseTerm
        | e.SetSemiSync
        | e.SetAccounts
        | e.ReloadCertificate
        | e.StartApplying
        | e.StartReceiving
        | e.StopReceiving
        | e.Drain
        | e.Equalise,
    ) -> None:
        connection = await self._servers.standing(effect.instance)
        match effect:
            case e.RaiseTerm():
                await self._raise_term(effect.instance)
            case e.ReloadCertificate():
                await reload_certificates(connection)
            case e.StartApplying():
                await replication.start_apply(connection, guard=self._guard)
            case e.SetSemiSync():
                await durability.set_semi_sync(connection, enabled=effect.enabled, guard=self._guard)
            case e.SetAccounts():
                await self._set_accounts(effect.instance, unlocked=effect.unlocked)
            case e.StartReceiving():
                await replication.start_io(connection, guard=self._guard)
            case e.StopReceiving():
                await self._stop_receiving(effect.instance)
            case e.Drain():
                await replication.drain(connection, position=effect.target, timeout_seconds=DRAIN_SECONDS)
            case e.Equalise():
                await replication.equalise(connection, guard=self._guard)
                await self._set_accounts(effect.instance, unlocked=effect.unlocked)

    async def apply_salvaged(self, effect: e.ApplySalvaged, source: TailSource) -> None:
        """Have the drained candidate take a tail from its sidecar. Raises what `run` raises, and TailRefused."""
        connection = await self._servers.standing(effect.instance)
        await apply_tail(
            connection,
            source=source,
            target=effect.upto,
            guard=self._guard,
            deadline_seconds=SALVAGED_SECONDS,
        )

    async def _raise_term(self, instance: str) -> None:
        """Not done before the sessions of earlier leaders are gone: their statements had compared terms already."""
        connection = await self._servers.standing(instance)
        await terms.raise_term(connection, guard=self._guard)
        keep = self._servers.own_ids(instance)
        await kill_other_sessions(connection, guard=self._guard, keep=keep)
        left = [
            each.connection_id
            for each in await sessions(connection)
            # One that waits for an acknowledgement does nothing more after it.
            if each.connection_id not in keep and not each.waits_for_acknowledgement
        ]
        if left:
            raise PredecessorRemains(f"sessions {left} of an earlier leader are not gone yet from {instance}")
        self._cleared[instance] = connection.incarnation

    async def _stop_receiving(self, instance: str) -> None:
        try:
            await replication.stop_io(await self._servers.standing(instance), guard=self._guard)
        except StateRefused as error:
            if error.reason is not WrongState.NO_REPLICATION:
                raise

    async def _set_accounts(self, instance: str, *, unlocked: tuple[int, ...]) -> None:
        connection = await self._servers.standing(instance)
        locked = ACCOUNTS - {replication_account(number) for number in unlocked}
        await durability.set_locks(connection, accounts=ACCOUNTS, locked=locked, guard=self._guard)
        server = self._target().server(instance)
        for account in sorted(locked & (server.connected_accounts if server is not None else frozenset())):
            await durability.kill_dump_threads(connection, account=account, guard=self._guard)

    async def _attach(self, effect: e.Attach) -> None:
        target = self._target()
        account = replication_account(effect.ordinal)
        connection = await self._servers.standing(effect.instance)
        source = target.server(effect.source)
        own = target.server(effect.instance)
        if (
            own is not None
            and own.replication is not None
            and own.replication.sql_running
            and own.replication.received
        ):
            # What it received may be acknowledged: applied here first, not only fetched again.
            await replication.drain(
                connection, position=own.replication.received, timeout_seconds=DRAIN_SECONDS
            )
        await replication.attach(
            connection,
            source=Source(
                host=effect.source_address,
                port=target.port,
                user=account,
                password=target.credentials.replication_passwords[account],
            ),
            source_position=source.executed if source is not None else Position(),
            guard=self._guard,
        )

    async def _initialise(self, effect: e.InitialisePrimary) -> None:
        target = self._target()
        connection = await self._servers.standing(effect.instance)
        await initialise_primary(
            connection,
            replication={
                account: native_password_hash(password)
                for account, password in target.credentials.replication_passwords.items()
            },
            application=target.application,
            guard=self._guard,
        )
        await durability.set_semi_sync(connection, enabled=False, guard=self._guard)
        await self._write_epoch(effect.instance, epoch=1, cluster_id=effect.cluster_id)

    async def _open(self, effect: e.OpenPrimary) -> None:
        """The epoch's first transaction is sent, then the server is opened; the acknowledgement is not awaited."""
        connection = await self._servers.standing(effect.instance)
        if connection.incarnation != effect.incarnation:
            raise OtherServerStart(f"{effect.instance} was started anew since it was chosen to be opened")
        await durability.set_semi_sync(connection, enabled=effect.semi_sync, guard=self._guard)
        writing = self._begin_epoch(effect)
        await self._until_sent(effect.instance, writing)
        await roles.open_primary(connection, semi_sync=effect.semi_sync, guard=self._guard)

    def _begin_epoch(self, effect: e.OpenPrimary) -> asyncio.Task[None]:
        key = (effect.instance, effect.epoch)
        if key not in self._writing:
            task = self._group.create_task(self._write_first(effect), name=f"epoch {effect.epoch}")
            self._writing[key] = task
            task.add_done_callback(lambda _: self._writing.pop(key, None))
        return self._writing[key]

    async def _write_first(self, effect: e.OpenPrimary) -> None:
        try:
            await self._write_epoch(
                effect.instance,
                epoch=effect.epoch,
                cluster_id=effect.cluster_id,
                incarnation=effect.incarnation,
            )
        except (OperatorError, TimeoutError, OSError) as error:
            # Facts show that the epoch is missing; it is written again.
            logger.warning("instance %s: epoch %d was not written: %s", effect.instance, effect.epoch, error)

    async def _until_sent(self, instance: str, writing: asyncio.Task[None]) -> None:
        """Until the transaction is committed or waits for its acknowledgement."""
        connection = await self._servers.standing(instance)
        # Counted, not cancelled: a cancelled query costs its connection.
        for _ in range(SENT_LOOKS):
            await asyncio.wait((writing,), timeout=SENT_SECONDS)
            if writing.done() or any(each.waits_for_acknowledgement for each in await sessions(connection)):
                return
        logger.info("instance %s: the epoch's transaction is not written yet; opening", instance)

    async def _write_epoch(
        self, instance: str, *, epoch: int, cluster_id: str, incarnation: str = ""
    ) -> None:
        """With an `incarnation`: in no other start of the server, which may be no primary's any more."""
        connection = await self._servers.fresh(instance)
        try:
            if incarnation not in ("", connection.incarnation):
                raise OtherServerStart(f"{instance} was started anew since it was chosen to be opened")
            await roles.write_epoch(
                connection,
                epoch=epoch,
                cluster_id=cluster_id,
                primary=instance,
                guard=self._guard,
                deadline_seconds=EPOCH_SECONDS,
            )
        finally:
            self._servers.give_back(instance, connection)

    async def _keep_application(self, instance: str) -> None:
        application = self._target().application
        if application is None:
            return
        connection = await self._servers.fresh(instance)
        try:
            await keep_application(connection, application, guard=self._guard, deadline_seconds=EPOCH_SECONDS)
        finally:
            self._servers.give_back(instance, connection)

    async def _prove(self, instance: str) -> None:
        connection = await self._servers.fresh(instance)
        try:
            await roles.touch_epoch(connection, guard=self._guard, deadline_seconds=EPOCH_SECONDS)
        finally:
            self._servers.give_back(instance, connection)

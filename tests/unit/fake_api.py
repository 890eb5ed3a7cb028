"""An API server in this process, for tests: real HTTP on loopback, watches, conflicts, and faults on demand.

    async with FakeApi() as api:
        client = api.client()
        api.fault(Fault.LOST_REPLY, method="PUT", path="/leases/", times=1)
        ...
        api.objects.create(POD, {...})  # as somebody else

What it keeps is in fake_objects.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from aiohttp import web
from kubernetes_asyncio.client.configuration import Configuration

from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.kinds import Kind, Manifest
from tests.unit.fake_objects import FakeObjects, Refused, matches


class Fault(Enum):
    """What may go wrong with a request; the first four happen instead of it."""

    GONE = auto()
    """HTTP 410."""
    TEXT_429 = auto()
    """Text, as from the server's overload protection."""
    HTML_502 = auto()
    """HTML, as from a proxy without a backend."""
    STATUS = auto()
    """A Kubernetes Status with `code`."""
    REFUSE = auto()
    """The connection is closed, nothing was done."""
    LOST_REPLY = auto()
    """It is done, and the connection is closed without a word."""
    DELAY = auto()
    """It is done after `seconds`."""
    CLOSE_WATCH = auto()
    """A watch ends properly as soon as it began."""
    ERROR_EVENT = auto()
    """A watch's first line is an ERROR with `code`."""
    TEXT_LINE = auto()
    """A watch's first line is no JSON."""
    TORN_LINE = auto()
    """A watch ends in the middle of an event."""


@dataclass(slots=True)
class Rule:
    """A fault for the next `times` requests whose method and path match."""

    fault: Fault
    method: str
    path: str
    watch: bool | None
    times: int
    code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived, whatever became of it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Manifest | None
    content_type: str
    authorization: str | None

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == "true"


class FakeApi:
    """Use as an async context manager; `objects` is its memory, `requests` all that arrived."""

    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.requests: list[Seen] = []
        self.watching = 0
        self.bookmark_seconds = 0.05
        self._rules: list[Rule] = []
        self._closing = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()
        self._clients: list[KubeClient] = []
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._closing = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and all connections; the objects stay."""
        self._closing.set()
        self.close_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def client(self, *, deadline: float = 10.0) -> KubeClient:
        """A client of this server, closed with it."""
        client = KubeClient(Configuration(host=f"http://127.0.0.1:{self.port}"), deadline=deadline)
        self._clients.append(client)
        return client

    def fault(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        watch: bool | None = None,
        times: int = 1,
        code: int = 500,
        seconds: float = 0.0,
    ) -> None:
        """Let the next `times` matching requests fail so; `path` is a part of the path."""
        self._rules.append(Rule(fault, method, path, watch, times, code, seconds))

    def heal(self) -> None:
        """No more faults."""
        self._rules.clear()

    def close_watches(self) -> None:
        """End all open watches, as a server that restarts."""
        for watcher in self._watchers:
            watcher.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        parsed = json.loads(body) if body else None
        query = {name: values[-1] for name, values in parse_qs(request.query_string).items()}
        seen = Seen(
            request.method,
            request.path,
            query,
            parsed,
            request.content_type,
            request.headers.get("authorization"),
        )
        self.requests.append(seen)
        rule = self._rule(seen)
        if rule is None:
            return await self._answer(request, seen)
        return await self._fail(request, seen, rule)

    def _rule(self, seen: Seen) -> Rule | None:
        for rule in self._rules:
            if (
                rule.times > 0
                and rule.method in ("", seen.method)
                and rule.path in seen.path
                and rule.watch in (None, seen.watch)
            ):
                rule.times -= 1
                return rule
        return None

    async def _fail(self, request: web.BaseRequest, seen: Seen, rule: Rule) -> web.StreamResponse:
        match rule.fault:
            case Fault.GONE:
                return _status(410, "Expired", "too old resource version")
            case Fault.STATUS:
                return _status(rule.code, "Injected", "injected")
            case Fault.TEXT_429:
                return web.Response(status=429, text="Too many requests, please try again later.")
            case Fault.HTML_502:
                return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")
            case Fault.REFUSE:
                return self._hang_up(request)
            case Fault.LOST_REPLY:
                await self._answer(request, seen)
                return self._hang_up(request)
            case Fault.DELAY:
                await self._pause(self._closing, seconds=rule.seconds)
                return await self._answer(request, seen)
            case Fault.CLOSE_WATCH:
                return await self._stream(request, b"")
            case Fault.ERROR_EVENT:
                status = {"kind": "Status", "code": rule.code, "reason": "Expired", "message": "injected"}
                return await self._stream(request, _line("ERROR", status))
            case Fault.TEXT_LINE:
                return await self._stream(request, b"Too many requests\n")
            case Fault.TORN_LINE:
                return await self._stream(request, b'{"type": "ADDED", "object": {"metad')

    def _hang_up(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _stream(self, request: web.BaseRequest, line: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(line)
        return response

    async def _answer(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        try:
            kind, namespace, name, subresource = self._route(seen.path)
            if seen.watch:
                return await self._watch(request, seen, kind, namespace)
            handlers: dict[str, Callable[..., Manifest]] = {
                "GET": self._get,
                "POST": self._post,
                "PUT": self._put,
                "PATCH": self._patch,
                "DELETE": self._delete,
            }
            answer = handlers[seen.method](seen, kind, namespace, name, status=subresource == "status")
            return web.json_response(answer, status=201 if seen.method == "POST" else 200)
        except Refused as refused:
            return _status(refused.code, refused.reason, refused.message)

    def _route(self, path: str) -> tuple[Kind, str | None, str | None, str]:
        parts = path.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        rest = parts[1:] if parts[0] == "api" else parts[2:]
        version, rest = rest[0], rest[1:]
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        collection = self.objects.collections.get((group, version, rest[0]))
        if collection is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        name = rest[1] if len(rest) > 1 else None
        return collection.kind, namespace, name, rest[2] if len(rest) > 2 else ""

    def _get(
        self, seen: Seen, kind: Kind, namespace: str | None, name: str | None, *, status: bool
    ) -> Manifest:
        if name is not None:
            return self.objects.get(kind, namespace, name)
        objects = self._selected(seen, kind, namespace)
        start = int(seen.query.get("continue", "0"))
        limit = int(seen.query.get("limit", "0")) or len(objects) or 1
        more = start + limit < len(objects)
        # As the real one: no apiVersion and kind within the items of a list.
        items = [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")} for item in objects]
        return {
            "apiVersion": kind.api_version,
            "kind": f"{kind.kind}List",
            "metadata": {
                "resourceVersion": str(self.objects.version),
                **({"continue": str(start + limit)} if more else {}),
            },
            "items": items[start : start + limit],
        }

    def _selected(self, seen: Seen, kind: Kind, namespace: str | None) -> list[Manifest]:
        objects = self.objects.of(kind).objects
        return [item for key, item in sorted(objects.items()) if self._visible(seen, namespace, item)]

    def _visible(self, seen: Seen, namespace: str | None, item: Manifest) -> bool:
        return namespace in (None, item["metadata"].get("namespace")) and matches(
            item,
            label_selector=seen.query.get("labelSelector", ""),
            field_selector=seen.query.get("fieldSelector", ""),
        )

    def _post(
        self, seen: Seen, kind: Kind, namespace: str | None, name: str | None, *, status: bool
    ) -> Manifest:
        return self.objects.create(kind, _body(seen))

    def _put(
        self, seen: Seen, kind: Kind, namespace: str | None, name: str | None, *, status: bool
    ) -> Manifest:
        return self.objects.replace(kind, _body(seen), status=status)

    def _patch(
        self, seen: Seen, kind: Kind, namespace: str | None, name: str | None, *, status: bool
    ) -> Manifest:
        if seen.content_type == "application/merge-patch+json":
            return self.objects.merge(kind, namespace, str(name), _body(seen), status=status)
        if seen.content_type == "application/apply-patch+yaml":
            manager = seen.query["fieldManager"]
            return self.objects.apply(kind, namespace, str(name), _body(seen), manager=manager, status=status)
        raise Refused(415, "UnsupportedMediaType", seen.content_type)

    def _delete(
        self, seen: Seen, kind: Kind, namespace: str | None, name: str | None, *, status: bool
    ) -> Manifest:
        preconditions = (seen.body or {}).get("preconditions")
        return self.objects.delete(kind, namespace, str(name), preconditions=preconditions)

    async def _watch(
        self, request: web.BaseRequest, seen: Seen, kind: Kind, namespace: str | None
    ) -> web.StreamResponse:
        collection = self.objects.of(kind)
        position = int(seen.query["resourceVersion"])
        if position < collection.oldest:
            # The real one answers 200 and an ERROR in the stream when its cache is behind.
            return _status(410, "Expired", f"too old resource version: {position} ({collection.oldest})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        closed = asyncio.Event()
        self._watchers.add(closed)
        self.watching += 1
        try:
            while not closed.is_set() and not self._closing.is_set():
                changed = collection.changed
                for entry in [entry for entry in collection.history if entry.version > position]:
                    position = entry.version
                    if self._visible(seen, namespace, entry.object):
                        await response.write(_line(entry.type, entry.object))
                await self._pause(changed, closed, seconds=self.bookmark_seconds)
                bookmark = {"kind": kind.kind, "metadata": {"resourceVersion": str(position)}}
                await response.write(_line("BOOKMARK", bookmark))
        except ConnectionError:
            pass
        finally:
            self.watching -= 1
            self._watchers.discard(closed)
        return response

    async def _pause(self, *events: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def eventually(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait until something holds; TimeoutError is a failed test, not a measurement."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


def _body(seen: Seen) -> Manifest:
    if seen.body is None:
        raise Refused(400, "BadRequest", "no body")
    return seen.body


def _line(kind: str, manifest: Manifest) -> bytes:
    return json.dumps({"type": kind, "object": manifest}).encode() + b"\n"


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    return web.json_response(body, status=code)

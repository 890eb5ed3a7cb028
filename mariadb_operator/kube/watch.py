"""One watch: from the API server's lines of JSON to events, or to an error that says what to do next.

kubernetes_asyncio's Watch hands out text replies as if they were events and reconnects without a pause; here a
stream ends with its first oddity and the reflector decides. Not for state: nothing is remembered here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from aiohttp.http_exceptions import BadHttpMessage
from kubernetes_asyncio.client.api_client import ApiClient

from mariadb_operator.kube.errors import error_of
from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.runtime.errors import OperatorError, Transient

CLIENT_MARGIN = 15.0
"""Seconds that the client waits past the time at which the server should have ended the stream."""


class WatchType(StrEnum):
    """What a line of a watch says about its object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    """Nothing happened up to this resource version."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line: the object is the state after the change, the last one for DELETED."""

    type: WatchType
    object: Manifest

    @property
    def resource_version(self) -> str:
        """Where to resume after this event."""
        return str(self.object["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """Where a watch begins and when it ends; all times in seconds."""

    resource_version: str
    server_seconds: int
    silence_seconds: float
    connect_seconds: float
    selectors: tuple[tuple[str, str], ...]


@asynccontextmanager
async def watch_events(
    api: ApiClient, *, path: str, query: WatchQuery, request: str
) -> AsyncIterator[AsyncIterator[WatchEvent]]:
    """Open the stream; Gone or Transient from here or from the iterator, which ends when the server ends it."""
    try:
        async with asyncio.timeout(query.server_seconds + CLIENT_MARGIN):
            response = await _open(api, path=path, query=query)
            try:
                if response.status != 200:
                    body = await response.content.read(4096)
                    raise error_of(code=response.status, body=body, request=request, writes=False)
                yield _events(response, request=request)
            finally:
                response.close()
    except TimeoutError as error:
        raise Transient(f"{request}: the server went silent") from error
    except (aiohttp.ClientError, BadHttpMessage, OSError) as error:
        raise Transient(f"{request}: connection lost: {error}") from error


async def _open(api: ApiClient, *, path: str, query: WatchQuery) -> aiohttp.ClientResponse:
    parameters = [
        ("watch", "true"),
        ("allowWatchBookmarks", "true"),
        ("resourceVersion", query.resource_version),
        ("timeoutSeconds", str(query.server_seconds)),
        *query.selectors,
    ]
    timeout = aiohttp.ClientTimeout(
        total=None, connect=query.connect_seconds, sock_read=query.silence_seconds
    )
    async with asyncio.timeout(query.connect_seconds):
        response: aiohttp.ClientResponse = await api.call_api(
            path,
            "GET",
            query_params=parameters,
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=timeout,
        )
    return response


async def _events(response: aiohttp.ClientResponse, *, request: str) -> AsyncIterator[WatchEvent]:
    while line := await response.content.readline():
        if line.strip():
            yield _parse(line, request=request)


def _parse(line: bytes, *, request: str) -> WatchEvent:
    try:
        parsed = json.loads(line)
        kind, manifest = parsed["type"], parsed["object"]
        if kind == "ERROR":
            raise _error(manifest, request=request)
        event = WatchEvent(type=WatchType(kind), object=manifest)
        # Both are needed by whoever takes the event: better refused here than half taken there.
        if not event.resource_version or not (
            event.type is WatchType.BOOKMARK or manifest["metadata"]["name"]
        ):
            raise ValueError("no version or no name")
    except (ValueError, KeyError, TypeError) as error:
        text = line[:200].decode("utf-8", "replace").strip()
        raise Transient(f"{request}: not an event: {text}") from error
    return event


def _error(status: Manifest, *, request: str) -> OperatorError:
    code = int(status.get("code") or 500)
    return error_of(code=code, body=json.dumps(status).encode(), request=request, writes=False)

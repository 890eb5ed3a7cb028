"""One request to the API server: credentials, deadline, and what a lost reply means.

Over kubernetes_asyncio's ApiClient, which has no default timeouts. Knows paths and JSON, no kinds; those are the
client's. Nothing is tried again here.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from kubernetes_asyncio.client.api_client import ApiClient
from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from mariadb_operator.kube.errors import error_of
from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

Query = list[tuple[str, str]]


async def load_configuration(*, kubeconfig: Path | None = None, context: str | None = None) -> Configuration:
    """Address and credentials: the kubeconfig given, else the Pod's own, else KUBECONFIG or ~/.kube/config.

    Permanent when there is none, or it can't be used.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(
                config_file=str(kubeconfig) if kubeconfig is not None else None,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    except (ConfigException, OSError) as error:
        raise Permanent(f"no usable Kubernetes configuration (in-cluster, KUBECONFIG): {error}") from error
    return configuration


class Transport:
    """Connections to one API server; every request ends within its deadline (seconds)."""

    def __init__(self, configuration: Configuration, *, deadline: float) -> None:
        """Must be called within a running event loop."""
        self.api = ApiClient(configuration)
        self.api.user_agent = "mariadb-operator"
        self.deadline = deadline
        # aiohttp sends PUT and DELETE once more when a kept connection breaks. The first may have been done: its
        # repetition would then answer 409 or 404, and "known to have had no effect" would be wrong.
        self.api.rest_client.pool_manager._retry_connection = False  # noqa: SLF001 - there is no other switch

    async def close(self) -> None:
        """Close all connections, watches included."""
        await self.api.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        target: str,
        query: Query | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        deadline: float | None = None,
    ) -> Manifest:
        """The JSON object that the server answers with; `target` names the object in errors."""
        request = f"{method} {target}"
        seconds = self.deadline if deadline is None else deadline
        writes = method != "GET"
        with_errors = _lost_replies(request=request, writes=writes, seconds=seconds)
        async with with_errors, asyncio.timeout(seconds):
            response: aiohttp.ClientResponse = await self.api.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Content-Type": content_type, "Accept": JSON},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds / 2),
            )
            async with response:
                reply = await response.read()
        if not 200 <= response.status < 300:
            raise error_of(code=response.status, body=reply, request=request, writes=writes)
        return _parse(reply, request=request, writes=writes)


@asynccontextmanager
async def _lost_replies(*, request: str, writes: bool, seconds: float) -> AsyncIterator[None]:
    """Turn connection errors and deadlines into ours."""
    lost: type[OperatorError] = Uncertain if writes else Transient
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        # No connection: the request never left.
        raise Transient(f"{request}: no connection to the API server: {error}") from error
    except TimeoutError as error:
        raise lost(f"{request}: no reply within {seconds:.1f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise lost(f"{request}: connection lost: {error}") from error


def _parse(reply: bytes, *, request: str, writes: bool) -> Manifest:
    try:
        parsed = json.loads(reply)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        lost = Uncertain if writes else Transient
        raise lost(f"{request}: the reply is no JSON object")
    return parsed

"""The process's HTTP endpoints: /metrics for Prometheus, /healthz and /readyz for the kubelet.

Alive means that the event loop turns; ready, that it could lead: the caches are filled and the resource's definition
is not older than the operator. A standby is ready too: it is warm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


@asynccontextmanager
async def serve_http(
    *, registry: CollectorRegistry, unready: Callable[[], str], metrics_port: int, health_port: int
) -> AsyncIterator[None]:
    """Serve while the context lasts; a port of 0 is not served. Raises OSError when a port is taken.

    `unready` gives the reason why the process is not ready, empty when it is.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        reason = unready()
        return web.Response(status=503, text=reason) if reason else web.Response(text="ok")

    runners = []
    try:
        for port, routes in (
            (metrics_port, [web.get("/metrics", metrics)]),
            (health_port, [web.get("/healthz", healthz), web.get("/readyz", readyz)]),
        ):
            if port == 0:
                continue
            application = web.Application()
            application.add_routes(routes)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, port=port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()

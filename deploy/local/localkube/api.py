"""Asks the API server the few things that `up` and `status` need. Not a client library: tests have theirs."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localkube.errors import LocalClusterError

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The server of a kubeconfig that `services.kubeconfig` wrote."""

    kubeconfig: Path

    def get(self, path: str) -> Any:
        """The JSON at `path`; None when the server gives no good answer."""
        answer = self._answer(path)
        return None if answer is None else json.loads(answer)

    def is_ready(self) -> bool:
        """Whether the server says that it is."""
        return self._answer("/readyz") is not None

    def wait_ready(self, *, seconds: float) -> None:
        """Wait until the server is ready.

        Raises:
            LocalClusterError: it was not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise LocalClusterError(f"the API server is not ready after {seconds:.0f} s")
            time.sleep(0.1)

    def ready_nodes(self) -> dict[str, str]:
        """The nodes that are Ready, and the boot id that each of them reported."""
        found = self.get("/api/v1/nodes") or {"items": []}
        return {
            node["metadata"]["name"]: node["status"]["nodeInfo"]["bootID"]
            for node in found["items"]
            if _is_ready(node)
        }

    def dns_is_ready(self) -> bool:
        """Whether one CoreDNS is available."""
        deployment = self.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns") or {}
        available: int = deployment.get("status", {}).get("availableReplicas", 0)
        return available > 0

    def _answer(self, path: str) -> bytes | None:
        configuration = json.loads(self.kubeconfig.read_text())
        cluster = configuration["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        assert server.hostname is not None
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        connection = http.client.HTTPSConnection(
            server.hostname,
            server.port,
            timeout=_TIMEOUT_SECONDS,
            context=ssl.create_default_context(cadata=authority),
        )
        token = configuration["users"][0]["user"]["token"]
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return content if response.status == http.HTTPStatus.OK else None


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

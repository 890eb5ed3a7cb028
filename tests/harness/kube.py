"""The API server as tests see it: JSON through one `kubectl proxy`, so that any kubeconfig works and a look costs
milliseconds; kubectl itself where a person would use it (apply, exec, logs, describe).

Not the operator's own client: a test must not share its mistakes.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from tests.harness.local import HarnessError
from tests.harness.processes import tied

Object = dict[str, Any]
Answer = TypeVar("Answer")

CALL_SECONDS = 15
COMMAND_SECONDS = 120
FIELD_MANAGER = "harness"

PREFIXES = {
    "pods": "/api/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "events": "/api/v1",
    "nodes": "/api/v1",
    "namespaces": "/api/v1",
    "persistentvolumes": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "serviceaccounts": "/api/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "deployments": "/apis/apps/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "storageclasses": "/apis/storage.k8s.io/v1",
    "mariadbclusters": "/apis/mariadb.fsm.dev/v1alpha1",
}


class ApiError(HarnessError):
    """The API server refused; `code` is its HTTP status, 0 where it was not reached, and `said` are its words."""

    def __init__(self, code: int, request: str, said: str) -> None:
        super().__init__(f"{code}: {request}: {said}")
        self.code = code
        self.said = said

    @property
    def passes(self) -> bool:
        """Whether asking again may be answered: it was not reached, was busy, or had a fault of its own."""
        return self.code in (0, 429) or self.code >= 500


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the proxy's socket file."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Watch:
    """(wall-clock time, object) for each change, until it ends by itself or by `end`, from whatever thread."""

    def __init__(self, response: http.client.HTTPResponse, wire: socket.socket) -> None:
        self._response = response
        self._wire = wire

    def __iter__(self) -> Iterator[tuple[float, Object]]:
        while True:
            try:
                line = self._response.readline()
            except (http.client.HTTPException, OSError):
                return  # cut: in the middle of a chunk, as it were
            if not line:
                return
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ApiError(int(event["object"].get("code") or 0), "watch", event["object"]["message"])
            yield time.time(), event["object"]

    def end(self) -> None:
        """Whoever iterates comes to an end."""
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Kube:
    """One Kubernetes. Made by `opened`."""

    kubeconfig: Path
    socket_path: str

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None when there is none."""
        try:
            return self._call("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """The objects of a kind."""
        query = {"labelSelector": selector} if selector else {}
        items = self._call("GET", _path(kind, namespace), query=query)["items"]
        assert isinstance(items, list)
        return items

    def create(
        self, kind: str, body: Object, namespace: str | None = None, *, dry_run: bool = False
    ) -> Object:
        """Makes an object, or only asks whether it could be. Raises ApiError with what is said of a bad one."""
        query = {"fieldValidation": "Strict", **_writing(dry_run=dry_run)}
        return self._call("POST", _path(kind, namespace), body=body, query=query)

    def evict(self, pod: str, namespace: str) -> None:
        """Asks for an eviction, as `kubectl drain` does. Raises ApiError 429 where a disruption budget forbids it."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        self._call("POST", _path("pods", namespace, pod, "eviction"), body=body)

    def merge(
        self, kind: str, name: str, patch: Object, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        """A merge patch, as somebody's edit."""
        return self._call(
            "PATCH",
            _path(kind, namespace, name, subresource),
            body=patch,
            query=_writing(),
            content_type="application/merge-patch+json",
        )

    def replace(self, kind: str, name: str, field: str, value: Any, namespace: str | None = None) -> Object:
        """Sets one field of the top level to exactly this, whatever anybody else wrote to the object in between."""
        return self._call(
            "PATCH",
            _path(kind, namespace, name),
            body=[{"op": "replace", "path": f"/{field}", "value": value}],
            query={"fieldValidation": "Strict", **_writing()},
            content_type="application/json-patch+json",
        )

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        propagation: str = "Background",
    ) -> None:
        """Asks for the deletion; what is not there is no error."""
        body: Object = {"propagationPolicy": propagation}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self._call("DELETE", _path(kind, namespace, name), body=body)
        except ApiError as error:
            if error.code != 404:
                raise

    @contextmanager
    def watch(self, kind: str, namespace: str, name: str = "", *, seconds: float) -> Iterator[Watch]:
        """The changes of one object, or of all of a kind, what is there first; for at most so many seconds."""
        # From what the API server remembers: asked for the newest, it may wait for its own cache and give up.
        query = {"watch": "true", "resourceVersion": "0", "timeoutSeconds": str(max(1, int(seconds)))}
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        connection = _UnixConnection(self.socket_path, timeout=seconds + CALL_SECONDS)
        try:
            target = f"{_path(kind, namespace)}?{urlencode(query)}"
            connection.request("GET", target)
            wire, response = connection.sock, connection.getresponse()
            if response.status >= 400:
                raise ApiError(response.status, f"GET {target}", _message(response.read().decode()))
            watch = Watch(response, wire)
            yield watch
            watch.end()
        finally:
            connection.close()

    def kubectl(
        self,
        *arguments: str,
        stdin: str | None = None,
        seconds: float = COMMAND_SECONDS,
        check: bool = True,
    ) -> str:
        """Runs kubectl; its standard output. Raises HarnessError with what it said when it fails."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HarnessError(f"`{' '.join(command)}` took longer than {seconds:.0f} s") from error
        if check and done.returncode != 0:
            raise HarnessError(
                f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return done.stdout

    def apply(self, *objects: Object) -> None:
        """`kubectl apply` of these objects."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(whole))

    def execute(
        self, namespace: str, pod: str, *command: str, stdin: str | None = None, seconds: float = 60
    ) -> str:
        """Runs a command in the Pod's mariadb container."""
        interactive = ["--stdin"] if stdin is not None else []
        return self.kubectl(
            "exec", *interactive, "--namespace", namespace, pod, "--container", "mariadb", "--", *command,
            stdin=stdin, seconds=seconds,
        )  # fmt: skip

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Object | Sequence[Object] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        target = f"{path}?{urlencode(query)}" if query else path
        connection = _UnixConnection(self.socket_path, timeout=CALL_SECONDS)
        try:
            connection.request(
                method,
                target,
                body=json.dumps(body) if body is not None else None,
                headers={"Content-Type": content_type},
            )
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"{method} {target}", repr(error)) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiError(response.status, f"{method} {target}", _message(text))
        answer: Object = json.loads(text)
        return answer


@contextmanager
def opened(kubeconfig: Path) -> Iterator[Kube]:
    """A way to the API server for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="kube-") as folder:
        path = f"{folder}/api"
        command = [
            "kubectl", "--kubeconfig", str(kubeconfig), "proxy", "--unix-socket", path,
            # By default it refuses exec and attach, and nothing else is in its way.
        ]  # fmt: skip
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with subprocess.Popen(tied(command), stdout=subprocess.DEVNULL, env=environment) as proxy:
            try:
                wait_for("kubectl proxy", lambda: Path(path).exists() or None, seconds=60, every=0.05)
                yield Kube(kubeconfig, path)
            finally:
                proxy.terminate()


def _writing(*, dry_run: bool = False) -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}


def wait_for(what: str, ask: Callable[[], Answer | None], *, seconds: float, every: float = 0.2) -> Answer:
    """Asks until the answer is neither None nor False.

    Raises:
        HarnessError: not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() >= deadline:
            raise HarnessError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


def holds_for(what: str, ask: Callable[[], bool], *, seconds: float, every: float = 0.2) -> None:
    """Asks again and again for so long that what must not happen would have happened.

    Raises:
        HarnessError: it does not hold.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not ask():
            raise HarnessError(f"{what}: no longer so, {end - time.monotonic():.1f} s before the end")
        time.sleep(every)


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    parts: Sequence[str] = [
        *(["namespaces", namespace] if namespace else []), kind, *([name] if name else []),
        *([subresource] if subresource else []),
    ]  # fmt: skip
    return "/".join([PREFIXES[kind], *(quote(part, safe="") for part in parts)])


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text[:500]

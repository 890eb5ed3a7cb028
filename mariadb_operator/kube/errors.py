"""What the API server's answers mean, in the operator's error tree.

Not for lost answers: those have no status and are told apart in the client.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain

_MESSAGE_LIMIT = 1024
_NOT_OF_THE_SCHEMA = "failed to create typed patch object"
"""How server-side apply refuses a field that the schema lacks: with a 500 (seen with 1.36), nothing was done."""


class Conflict(Transient):
    """409: the object changed since it was read, or a precondition does not hold. Observe again."""


class AlreadyExists(Conflict):
    """409 on a creation: an object of that name is there, ours or not."""


class NotFound(Transient):
    """404: no such object, or no such kind (its CRD is not installed).

    Transient because it is mostly a race with a deletion: who expects the object to stay catches it.
    """


class Gone(Transient):
    """410: the resource version, or the place in a paged list, is too old. List again."""


class Rejected(Permanent):
    """400, 403, 422 and the like: the API server read the request and refuses it; the message says why."""


def parse_status(body: bytes) -> dict[str, Any] | None:
    """The Kubernetes Status object in a reply, or None for anything else (a proxy's HTML, plain text)."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    if isinstance(parsed, dict) and parsed.get("kind") == "Status":
        return parsed
    return None


def error_of(*, code: int, body: bytes, request: str, writes: bool) -> OperatorError:
    """The error for a reply that is not a success.

    Args:
        code: HTTP status, or the code in a watch's ERROR event.
        body: what came with it; only its Status message, or its beginning if it is none, is quoted.
        request: what was asked, such as "PUT Lease a/b", for the message.
        writes: whether the request would change something. A server error may then mean "done".
    """
    status = parse_status(body)
    if status is not None:
        text = str(status.get("message") or status.get("reason") or "")
    else:
        text = body[:200].decode("utf-8", "replace")
    message = f"{request}: {code} {' '.join(text.split())}"[:_MESSAGE_LIMIT]
    reason = str(status.get("reason", "")) if status is not None else ""
    if code == HTTPStatus.INTERNAL_SERVER_ERROR and status is not None and _NOT_OF_THE_SCHEMA in text:
        return Rejected(message)
    return _class_of(code=code, reason=reason, known=status is not None, writes=writes)(message)


def _class_of(*, code: int, reason: str, known: bool, writes: bool) -> type[OperatorError]:
    simple: dict[int, type[OperatorError]] = {
        HTTPStatus.UNAUTHORIZED: Transient,  # a rotated token: the next request reads the new one
        HTTPStatus.NOT_FOUND: NotFound,
        HTTPStatus.CONFLICT: AlreadyExists if reason == "AlreadyExists" else Conflict,
        HTTPStatus.GONE: Gone,
        HTTPStatus.TOO_MANY_REQUESTS: Transient,  # turned away before anything was done
    }
    if code in simple:
        return simple[code]
    if 400 <= code < 500:
        return Rejected
    if not writes:
        return Transient
    # 500 and 504 also carry "etcdserver: request timed out", and a proxy's 502 or 503 a lost reply: done or not.
    if code == HTTPStatus.SERVICE_UNAVAILABLE and known:
        return Transient
    return Uncertain

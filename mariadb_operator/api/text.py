"""Text and times as status holds them: bounded and in one form."""

from __future__ import annotations

import json
from datetime import UTC, datetime


def clip(text: str, limit: int) -> str:
    """The text, cut so that it takes at most `limit` bytes inside JSON; a cut shows as an ellipsis."""
    if _size(text) <= limit:
        return text
    while text and _size(text + "…") > limit:
        text = text[: -max(1, (_size(text) - limit) // 6)]
    return text + "…" if limit >= 3 else ""


def _size(text: str) -> int:
    return size(text) - 2


def size(value: object) -> int:
    """How many bytes the value takes as JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def instant(seconds: float, *, timespec: str = "milliseconds") -> str:
    """Seconds since 1970 as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def seconds_of(moment: datetime) -> float:
    """Seconds since 1970, to the millisecond; a time without a zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp(), 3)

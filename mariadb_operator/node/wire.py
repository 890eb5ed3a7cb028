"""Frozen dataclasses to one line of JSON and back; what is not exactly of the expected shape is an error.

Not for what the lines say: protocol.py. Written by hand because the sidecar has no room for pydantic.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from mariadb_operator.runtime.errors import Permanent

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

LINE_LIMIT = 8192
TEXT_LIMIT = 1024
_INTEGER_LIMIT = 2**63


class Malformed(Permanent):
    """A line that is not what was expected; nothing of it was used."""


class Unknown(StrEnum):
    """What a field that we do not know means."""

    IGNORED = "ignored"  # in a reply: a newer peer tells more
    REFUSED = "refused"  # in a request: it may change what is asked for


def encode(value: DataclassInstance) -> bytes:
    """One line of JSON."""
    return json.dumps(asdict(value), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(kind: type[T], line: bytes, *, unknown: Unknown) -> T:
    """The value in one line of JSON. Raises Malformed; its message quotes nothing of the line."""
    return build(kind, parse(line), unknown=unknown)


def parse(line: bytes) -> dict[str, Any]:
    """The object in one line of JSON. Raises Malformed."""
    if len(line) > LINE_LIMIT:
        raise Malformed(f"a line of more than {LINE_LIMIT} bytes")
    try:
        parsed = json.loads(line, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("not a line of JSON") from error
    if not isinstance(parsed, dict):
        raise Malformed("not a JSON object")
    return parsed


def build(kind: type[T], parsed: object, *, unknown: Unknown, where: str = "") -> T:
    """A value from what JSON gave. Raises Malformed."""
    if not isinstance(parsed, dict):
        raise Malformed(f"{where or kind.__name__} is not an object")
    hints = _hints(kind)
    strangers = parsed.keys() - hints.keys()
    if strangers and unknown is Unknown.REFUSED:
        raise Malformed(f"{kind.__name__} has no field {min(strangers)[:64]!r}")
    given = {}
    for field in fields(kind):
        path = f"{where}.{field.name}" if where else field.name
        if field.name in parsed:
            given[field.name] = _convert(hints[field.name], parsed[field.name], unknown, path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Malformed(f"{path} is missing")
    try:
        return kind(**given)
    except ValueError as error:
        raise Malformed(f"{kind.__name__}: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@lru_cache(maxsize=128)
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: object, unknown: Unknown, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        if value is None:
            return None
        [hint] = [each for each in typing.get_args(hint) if each is not types.NoneType]
        return _convert(hint, value, unknown, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise Malformed(f"{where} is not a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, each, unknown, where) for each in value)
    if is_dataclass(hint):
        return build(typing.cast(Any, hint), value, unknown=unknown, where=where)
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise Malformed(f"{where} is none of {', '.join(str(each.value) for each in hint)}") from error
    if not _PLAIN[hint](value):
        raise Malformed(f"{where} is not a {hint.__name__} within its bounds")
    return float(typing.cast(float, value)) if hint is float else value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT and value.isprintable()


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INTEGER_LIMIT


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_PLAIN: dict[type, Callable[[object], bool]] = {
    str: _is_text,
    int: _is_integer,
    float: _is_number,
    bool: _is_flag,
}

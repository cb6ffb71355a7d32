"""The formats of bodies: JSON, MessagePack for those who ask for it, and lines of JSON.

MessagePack is another spelling of the same JSON. What JSON cannot say (NaN, bytes, keys
that are no texts, dates of its own) is refused, so that no value means two things.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

JSON = "application/json"
MESSAGEPACK = "application/msgpack"
LINES = "application/x-ndjson"
"""One JSON document a line: a snapshot, whose chunks are read as they come."""
EVENTS = "text/event-stream"

T = TypeVar("T")
encode_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class Unreadable(ValueError):
    """A body that is not of the form that its message has (M1)."""


def encode_messagepack(message: Any) -> bytes:
    return _pack(msgspec.to_builtins(message))


ENCODERS: dict[str, Callable[[Any], bytes]] = {JSON: encode_json, MESSAGEPACK: encode_messagepack}


class Reader(Generic[T]):
    """Reads bodies of one kind of message."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode
        self._readers = {JSON: self._read_json, MESSAGEPACK: self._read_messagepack}

    def read(self, content_type: str, body: bytes) -> T:
        """Raises `Unreadable`, and `KeyError` for a content type that is neither of the two."""
        read = self._readers[content_type]
        try:
            return read(body)
        except _UNREADABLE as error:
            raise Unreadable(f"the body is not of its message's form: {error}") from error

    def _read_json(self, body: bytes) -> T:
        message = self._decode(body)
        if rb"\u0000" in body:  # perhaps a backslash and more, written as text
            _require_plain(msgspec.json.decode(body))
        return message

    def _read_messagepack(self, body: bytes) -> T:
        document = _unpack(body)
        _require_plain(document)
        message: T = msgspec.convert(document, self._kind)
        return message


def _require_plain(value: Any) -> None:
    """Raises `ValueError` for what is no JSON value, or holds a NUL (A5)."""
    match value:
        case str():
            if "\0" in value:
                raise ValueError("a text holds a NUL")
        case None | bool() | int():
            pass
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is no number in JSON")
        case list():
            for item in value:
                _require_plain(item)
        case dict():
            for name, item in value.items():
                if not isinstance(name, str):
                    raise ValueError(f"{name!r} is no name of a JSON object")
                _require_plain(name)
                _require_plain(item)
        case _:
            raise ValueError(f"{type(value).__name__} is no type of JSON")

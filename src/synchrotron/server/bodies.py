"""Bodies of requests and responses: their format, their compression, their limit."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from synchrotron.server.limits import LimitExceeded
from synchrotron.server.settings import Settings
from synchrotron.wire.compression import WORTH_BYTES, TooLarge, chosen, compress, decompress
from synchrotron.wire.formats import ENCODERS, JSON, MESSAGEPACK, Reader, Unreadable

T = TypeVar("T")


class UnknownFormat(Exception):
    """A content type or a coding that is not spoken here."""


async def read_message(request: Request, reader: Reader[T], settings: Settings) -> T:
    """The message in a request's body.

    Raises `Unreadable`, `UnknownFormat`, `LimitExceeded` or `TimeoutError`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ENCODERS:
        raise UnknownFormat(f"a body is {JSON} or {MESSAGEPACK}, not {content_type or 'nothing'}")
    async with asyncio.timeout(settings.body_timeout_s):
        body = await _read(request, settings.body_bytes_max)
    return reader.read(content_type, _expanded(request, body, settings.body_bytes_max))


async def _read(request: Request, bytes_max: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise LimitExceeded("body_bytes_max", bytes_max)
    return bytes(body)


def _expanded(request: Request, body: bytes, bytes_max: int) -> bytes:
    coding = request.headers.get("content-encoding", "").strip().lower()
    if not coding or coding == "identity":
        return body
    if chosen(coding) is None:
        raise UnknownFormat(f"a body is compressed by zstd or gzip, not {coding}")
    try:
        return decompress(coding, body, bytes_max)
    except TooLarge as error:
        raise LimitExceeded("body_bytes_max", bytes_max) from error
    except ValueError as error:
        raise Unreadable(str(error)) from error


def coding_for(request: Request) -> str | None:
    """The compression that the asker understands best."""
    return chosen(request.headers.get("accept-encoding", ""))


def reply(request: Request, message: Any) -> Response:
    """A response in the format and compression that the asker prefers."""
    accepted = request.headers.get("accept", "").lower()
    format = MESSAGEPACK if MESSAGEPACK in accepted and JSON not in accepted else JSON
    body = ENCODERS[format](message)
    headers = {"vary": "accept, accept-encoding", "cache-control": "no-store"}
    coding = coding_for(request)
    if coding is not None and len(body) >= WORTH_BYTES:
        body = compress(coding, body)
        headers["content-encoding"] = coding
    return Response(body, media_type=format, headers=headers)

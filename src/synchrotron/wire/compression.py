"""Compressed bodies: zstd for replicas, gzip for whoever does not know it.

A small body can expand to a large one, so whoever decompresses says how much is enough.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import zstandard

ZSTD = "zstd"
GZIP = "gzip"
WORTH_BYTES = 1_000
"""Smaller bodies are sent as they are: they fit into one packet."""
_LEVEL = 1
_WINDOW_BYTES_MAX = 8 << 20
_GZIP_FORMAT = 31


class TooLarge(ValueError):
    """A body expands to more than was allowed."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def decompress(self, data: bytes, /) -> bytes:
        return data

    def flush(self, mode: int, /) -> bytes:
        return b""


def compress(coding: str, data: bytes) -> bytes:
    if coding == ZSTD:
        return zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    if coding == GZIP:
        return zlib.compress(data, level=_LEVEL, wbits=_GZIP_FORMAT)
    raise ValueError(f"there is no coding {coding!r}: use {ZSTD} or {GZIP}")


def decompress(coding: str, data: bytes, bytes_max: int) -> bytes:
    """Raises `TooLarge` for a body above `bytes_max`, and `ValueError` for one that is damaged."""
    try:
        if coding == ZSTD:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
            body = decompressor.stream_reader(data).read(bytes_max + 1)
        elif coding == GZIP:
            body = zlib.decompressobj(_GZIP_FORMAT).decompress(data, bytes_max + 1)
        else:
            raise ValueError(f"there is no coding {coding!r}: use {ZSTD} or {GZIP}")
    except (zstandard.ZstdError, zlib.error) as error:
        raise ValueError(f"the body is not {coding}: {error}") from error
    if len(body) > bytes_max:
        raise TooLarge(f"the body expands to more than {bytes_max} bytes")
    return body


class Compression:
    """Compresses a stream piece by piece, so that each can be read when it comes."""

    def __init__(self, coding: str | None) -> None:
        self._coding = coding
        self._compressor: _Compressor = _Plain()
        if coding == ZSTD:
            self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        elif coding == GZIP:
            self._compressor = zlib.compressobj(_LEVEL, wbits=_GZIP_FORMAT)

    def piece(self, data: bytes) -> bytes:
        block = zstandard.COMPRESSOBJ_FLUSH_BLOCK if self._coding == ZSTD else zlib.Z_SYNC_FLUSH
        return self._compressor.compress(data) + self._compressor.flush(block)

    def end(self) -> bytes:
        finish = zstandard.COMPRESSOBJ_FLUSH_FINISH if self._coding == ZSTD else zlib.Z_FINISH
        return self._compressor.flush(finish)


class Expansion:
    """Expands a stream as it comes. Raises `ValueError` for a coding that is not known."""

    def __init__(self, coding: str | None) -> None:
        self._coding = coding
        self._decompressor: _Decompressor = _Plain()
        if coding == ZSTD:
            zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
            self._decompressor = zstd.decompressobj()
        elif coding == GZIP:
            self._decompressor = zlib.decompressobj(_GZIP_FORMAT)
        elif coding not in (None, "", "identity"):
            raise ValueError(f"there is no coding {coding!r}: use {ZSTD} or {GZIP}")

    def piece(self, data: bytes) -> bytes:
        """Raises `ValueError` for a piece that is damaged."""
        try:
            return self._decompressor.decompress(data)
        except (zstandard.ZstdError, zlib.error) as error:
            raise ValueError(f"the body is not {self._coding}: {error}") from error


def chosen(accepted: str) -> str | None:
    """The best coding of an `Accept-Encoding` header."""
    offers: dict[str, float] = {}
    for offer in accepted.lower().split(","):
        name, _, weight = offer.partition(";q=")
        try:
            offers[name.strip()] = float(weight or 1)
        except ValueError:
            offers[name.strip()] = 0
    known = [coding for coding in (ZSTD, GZIP) if offers.get(coding, 0) > 0]
    return max(known, key=lambda coding: offers[coding], default=None)

"""Canonical JSON: one text for one value (A5).

UTF-8, keys sorted by code point, no spaces, no duplicate keys, only the escapes
that JSON requires, integers without fraction, floats in the shortest form that
reads back the same, with their `.0` or exponent kept. NaN, infinity, NUL and lone
surrogates have no form. Two values are the same if, and only if, their texts are:
Python's own `==` calls 1, 1.0 and True equal.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="sorted").encode
decode = msgspec.json.decode
_BUT_DIGITS = bytes(c if chr(c).isdigit() else 32 for c in range(128)) + b" " * 128
_LONG_NUMBER = 19
"""So many digits and more may not fit in 64 bits."""
INTEGERS = range(-(2**63), 2**63)
"""What PostgreSQL and SQLite can hold."""


def text_of(value: Any) -> str:
    """The canonical JSON text of a value that is known to have one."""
    return _encode(value).decode()


def canonical(value: Any) -> str:
    """The canonical JSON text of `value`, which consists of JSON's own types.

    Raises `ValueError` for a value that has no canonical form.
    """
    return check_form(value).decode()


def check_form(value: Any) -> bytes:
    """The canonical JSON of a value, in UTF-8. Raises `ValueError` where it has none."""
    try:
        text = _encode(value)
    except UnicodeEncodeError as error:
        raise ValueError("a string holds a lone surrogate") from error
    except (TypeError, OverflowError) as error:
        raise ValueError(
            "not JSON's own: keys are str, and values dict, list, str, int, float, bool or "
            "None; convert the rest first"
        ) from error
    # Only in such a text can there be what msgspec writes and has no form here.
    if b"null" in text or b"\\u0000" in text or _has_long_number(text):
        _refuse_formless(value)
    return text


def _has_long_number(text: bytes) -> bool:
    return max(map(len, text.translate(_BUT_DIGITS).split()), default=0) >= _LONG_NUMBER


def _refuse_formless(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, int) and value not in INTEGERS:
        raise ValueError("an integer does not fit in 64 bits")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a string holds a NUL character")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_formless(key)
            _refuse_formless(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_formless(item)


def parse_canonical(text: str | bytes) -> Any:
    """Read JSON text strictly: duplicate keys and non-canonical spelling are refused.

    Raises `ValueError`.
    """
    try:
        value = decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    given = text.decode() if isinstance(text, bytes) else text
    if canonical(value) != given:
        raise ValueError("not canonical JSON")
    return value

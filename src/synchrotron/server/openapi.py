"""The OpenAPI document, made from the messages.

`python -m synchrotron.server.openapi` prints it; the repository keeps it as
`docs/openapi.json`, and a test holds that one to be current.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

from synchrotron.core.messages import (
    PROTOCOL,
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.wire.formats import EVENTS, JSON, LINES, MESSAGEPACK
from synchrotron.wire.problems import STATUS, Problem

_MESSAGES = (SyncRequest, SyncAnswer, SnapshotRequest, SnapshotChunk, Problem)
_CAUSES = {
    400: "The message is not of its form, or the protocol does not allow it.",
    401: "The token is missing, wrong or expired; nothing is parked.",
    408: "The body took too long to arrive.",
    413: "A limit of size is exceeded; `name` says which.",
    415: "The format or the compression of the body is not known.",
    429: "A limit of rate is exceeded; `name` says which, and `Retry-After` when to come again.",
    503: "History or the keys of tokens cannot be reached now.",
}


def document() -> dict[str, Any]:
    """The document as plain data."""
    schemas, components = msgspec.json.schema_components(
        _MESSAGES, ref_template="#/components/schemas/{name}"
    )
    request, answer, wish, chunk, problem = schemas
    refused = {str(status): _body(cause, problem) for status, cause in _CAUSES.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Synchrotron",
            "version": str(PROTOCOL),
            "description": "Replicas exchange actions and patches with a server (SPEC section 9).",
        },
        "paths": {
            "/v1/sync": {"post": _exchange(request, answer, refused)},
            "/v1/snapshot": {"post": _snapshot(wish, chunk, refused)},
            "/v1/events": {"get": _events(refused)},
            "/health": {"get": _plain("Whether history can be reached.", JSON, 503)},
            "/metrics": {"get": _plain("Figures for Prometheus.", "text/plain")},
        },
        "components": {
            "schemas": _tidy(dict(sorted(components.items()))),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
        "security": [{"token": []}],
    }


def _tidy(value: Any) -> Any:
    """The same document on every Python and msgspec.

    Descriptions keep the indentation of docstrings before Python 3.13, and in which order
    alternatives come is another version's choice.
    """
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {name: _tidy(item) for name, item in value.items()}
    if isinstance(description := tidy.get("description"), str):
        tidy["description"] = cleandoc(description)
    if "anyOf" in tidy:
        tidy["anyOf"] = sorted(tidy["anyOf"], key=msgspec.json.encode)
    return tidy


def _body(description: str, schema: Any, *formats: str) -> dict[str, Any]:
    content = {format: {"schema": schema} for format in formats or (JSON,)}
    return {"description": description, "content": content}


def _exchange(request: Any, answer: Any, refused: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": "Upload actions and corrections, which may be none, and ask what is new.",
        "requestBody": {"required": True, **_content(request, JSON, MESSAGEPACK)},
        "responses": {"200": _body("An answer.", answer, JSON, MESSAGEPACK), **refused},
    }


def _snapshot(wish: Any, chunk: Any, refused: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": "All rows of the user's audiences, to start from or to go on with.",
        "requestBody": {"required": True, **_content(wish, JSON, MESSAGEPACK)},
        "responses": {"200": _body("A chunk in each line.", chunk, LINES), **refused},
    }


def _events(refused: dict[str, Any]) -> dict[str, Any]:
    horizon = {"type": "object", "properties": {"horizon": {"type": "integer"}}}
    return {
        "summary": "Server-sent events `commit`: something that the user can see is new.",
        "responses": {
            "200": _body("The present horizon, and that of each commit.", horizon, EVENTS),
            **{status: refused[status] for status in ("401", "429", "503")},
        },
    }


def _content(schema: Any, *formats: str) -> dict[str, Any]:
    return {"content": {format: {"schema": schema} for format in formats}}


def _plain(summary: str, format: str, *statuses: int) -> dict[str, Any]:
    responses = {"200": {"description": "Well.", "content": {format: {}}}}
    responses |= {str(status): {"description": _CAUSES[status]} for status in statuses}
    return {"summary": summary, "security": [], "responses": responses}


def text() -> str:
    """The document as it is kept in the repository."""
    encoded = msgspec.json.encode(document(), order="sorted")
    return msgspec.json.format(encoded, indent=1).decode() + "\n"


assert set(STATUS.values()) - {404, 405, 500} <= set(_CAUSES)

if __name__ == "__main__":
    print(text(), end="")

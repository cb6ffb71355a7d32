"""The server: what is stored and who may see it, over HTTP.

In reading order: `authority`, `clients`, `parts`, `form`, `parameters`, `tables`, `scripts`,
`roles`, `adoption`, `install`, `database`, `installed`, `fates`, `brought`, `history`, `shadow`,
`live`, `touched`, `upload`, `download`, `store`, `gate`, `exchange`, `snapshot`, `notify`,
`retention`, `postgres`, `embedded`, `settings`, `tokens`, `limits`, `metrics`, `bodies`,
`streams`, `openapi`, `asgi`, `serving`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synchrotron.server.asgi import asgi

__all__ = ["asgi"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: MemoryServer uses parts of this package without its extra.
    if name == "asgi":
        from importlib import import_module

        return import_module("synchrotron.server.asgi")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

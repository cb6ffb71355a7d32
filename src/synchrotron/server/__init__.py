"""The server: what is stored and who may see it, over HTTP.

In reading order: `authority`, `clients`, `parts`, `form`, `tables`, `install`, `database`,
`installed`, `fates`, `history`, `shadow`, `live`, `upload`, `download`, `store`, `gate`,
`exchange`, `snapshot`, `notify`, `retention`, `postgres`, `embedded`, `settings`, `tokens`,
`limits`, `metrics`, `bodies`, `streams`, `openapi`, `asgi`, `serving`.
"""

from synchrotron.server.asgi import asgi

__all__ = ["asgi"]

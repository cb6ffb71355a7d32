"""The server: what is stored and who may see it, over HTTP.

In reading order: `authority`, `clients`, `parts`, `form`, `parameters`, `tables`, `roles`,
`adoption`, `install`, `database`, `installed`, `fates`, `history`, `shadow`, `live`, `upload`,
`download`, `store`, `gate`, `exchange`, `snapshot`, `notify`, `retention`, `postgres`,
`embedded`, `settings`, `tokens`, `limits`, `metrics`, `bodies`, `streams`, `openapi`, `asgi`,
`serving`.
"""

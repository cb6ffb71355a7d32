"""The server: what is stored and who may see it, over HTTP.

In reading order: `authority`, `settings`, `tokens`, `limits`, `metrics`, `bodies`,
`streams`, `openapi`, `asgi`, `serving`.
"""

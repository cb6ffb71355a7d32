"""Talking to a server over HTTP.

In reading order: `loop`, `token`, `http`.
"""

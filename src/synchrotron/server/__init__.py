"""The server: what is stored and who may see it, over HTTP.

In reading order: `authority`.
"""

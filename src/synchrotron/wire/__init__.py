"""How messages travel over HTTP; client and server share it.

In reading order: `formats`, `compression`, `problems`.
"""

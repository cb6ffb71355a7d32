"""Run all benchmarks, or those named: `python -m benchmarks local_run divergence`."""

from __future__ import annotations

import sys
from importlib import import_module

ALL = (
    "local_run",
    "rivals",
    "reconcile",
    "queries",
    "size",
    "divergence",
    "http",
    "server",
    "postgres",
    "memory",
    "screen",
    "crowd",
    "history",
    "rows",
    "members",
    "streams",
    "counter",
    "strictness",
)

for name in sys.argv[1:] or ALL:
    import_module(f"benchmarks.{name}").main()

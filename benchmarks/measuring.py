"""Measuring in turns, and telling the result."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def in_turns(turns: int, *, times: int = 1, **things: Callable[[], object]) -> dict[str, float]:
    """The median time of each thing in microseconds, measured in turns of so many times."""
    times_us: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(turns):
        for name, thing in things.items():
            start_ns = time.perf_counter_ns()
            for _ in range(times):
                thing()
            times_us[name].append((time.perf_counter_ns() - start_ns) / 1_000 / times)
    return {name: statistics.median(times) for name, times in times_us.items()}


def tell(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table, and keep it as JSON."""
    names, found = list(columns), [list(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left")
    for row in found:
        table.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{title.split(':')[0].replace(' ', '-')}.json"
    file.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in found], indent=2))

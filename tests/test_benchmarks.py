"""What `make bench` runs is all that there is to measure."""

from __future__ import annotations

import ast
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DRAWS = {"pictures"}
"""What measures nothing."""


def with_main() -> set[str]:
    return {
        file.stem
        for file in BENCHMARKS.glob("*.py")
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.FunctionDef) and statement.name == "main"
    }


def run_by_make_bench() -> list[str]:
    program = ast.parse((BENCHMARKS / "__main__.py").read_text(encoding="utf-8"))
    [names] = (
        ast.literal_eval(statement.value)
        for statement in program.body
        if isinstance(statement, ast.Assign)
    )
    return list(names)


def test_make_bench_runs_every_benchmark_once() -> None:
    assert sorted(run_by_make_bench()) == sorted(with_main() - DRAWS)

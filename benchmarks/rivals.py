"""The same local work on other local-first packages of PyPI, side by side where installed.

One write at a time, each on the file before it returns, in turns: a todo's row in a replica and
in pyturso (SQLite rewritten, with sync elsewhere), and in accordsync, whose records have no
rows, one field of it: `pip install pyturso accordsync`. What is not installed is left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.application import app, create_project, create_todo
from benchmarks.local_run import INSERT, plain_database
from benchmarks.measuring import in_turns, tell

TURNS = 20
TIMES = 50
TABLE = "CREATE TABLE todo (id TEXT PRIMARY KEY, project_id TEXT, text TEXT)"


def replica(folder: Path, opened: ExitStack) -> Callable[[], object]:
    made = opened.enter_context(app.open(folder / "replica.db", user="alice"))
    made.run(create_project, id="p1")
    return lambda: made.run(create_todo, id=str(uuid.uuid4()), project_id="p1")


def plain(folder: Path, opened: ExitStack) -> Callable[[], object]:
    connection = plain_database(folder / "plain.db")
    opened.callback(connection.close)

    def write() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT, (str(uuid.uuid4()), "p1", "Buy milk"))
        connection.execute("COMMIT")

    return write


def pyturso(folder: Path, opened: ExitStack) -> Callable[[], object]:
    connection: Any = import_module("turso").connect(str(folder / "turso.db"))
    opened.callback(connection.close)
    connection.execute(TABLE)
    connection.commit()

    def write() -> None:
        connection.execute(INSERT, (str(uuid.uuid4()), "p1", "Buy milk"))
        connection.commit()

    return write


def accordsync(folder: Path, opened: ExitStack) -> Callable[[], object]:
    package: Any = import_module("accordsync")
    client = package.AccordClient.open(
        schema=package.define_schema({"todo": {"text": package.lww()}}),
        storage=package.SqliteStorage(str(folder / "accord.db")),
        transport=package.HttpTransport("http://127.0.0.1:9", get_token=str),  # never asked
    )
    opened.callback(client.close)
    return lambda: client.assign(f"todo:{uuid.uuid4()}", "text", "Buy milk")


OTHERS = {"pyturso": ("turso", pyturso), "accordsync": ("accordsync", accordsync)}


def main() -> None:
    with TemporaryDirectory() as folder, ExitStack() as opened:
        writers = {"apsw alone": plain(Path(folder), opened), "run": replica(Path(folder), opened)}
        for name, (module, make) in OTHERS.items():
            if find_spec(module) is not None:
                writers[name] = make(Path(folder), opened)
        us = in_turns(TURNS, times=TIMES, **writers)
    tell(
        f"rivals: one write, medians of {TURNS} turns of {TIMES}, on files",
        ["writer", "us", "per s", "of apsw alone"],
        [[name, taken, 1e6 / taken, taken / us["apsw alone"]] for name, taken in us.items()],
    )
    for name in OTHERS.keys() - us.keys():
        print(f"{name} is not installed, and left out")


if __name__ == "__main__":
    main()

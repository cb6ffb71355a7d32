"""What recording costs: `run` against the same statements in a plain transaction.

Both on a file, on the same schema and settings, with the same ids, in turns. A run of 100
rows is one action and one transaction.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw

from benchmarks.application import app, create_project, create_todo, create_todos, finish
from benchmarks.measuring import in_turns, tell
from synchrotron.app.ddl import NEW_ID

TURNS = 50
TIMES = 100
ROWS = 100
FEW = 10
INSERT = "INSERT INTO todo (id, project_id, text) VALUES (?, ?, ?)"


def plain_database(path: Path) -> apsw.Connection:
    """The same tables and settings as a replica's, without the replica."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.create_scalar_function(NEW_ID, lambda *_: "")
    for statement in app.schema.statements:
        connection.execute(statement)
    connection.execute("INSERT INTO project (id, name) VALUES ('p1', 'a project')")
    return connection


def main() -> None:
    with TemporaryDirectory() as folder:
        plain = plain_database(Path(folder) / "plain.db")
        replica = app.open(Path(folder) / "replica.db", user="alice")
        replica.run(create_project, id="p1")
        ids = [str(uuid.uuid4()) for _ in range(TURNS * TIMES)]
        inserted, recorded, finished, updated = (iter(ids) for _ in range(4))

        def plain_insert() -> None:
            plain.execute("BEGIN IMMEDIATE")
            plain.execute(INSERT, (next(inserted), "p1", "Buy milk"))
            plain.execute("COMMIT")

        def plain_inserts() -> None:
            plain.execute("BEGIN IMMEDIATE")
            plain.executemany(INSERT, [(str(uuid.uuid4()), "p1", "Buy milk") for _ in range(ROWS)])
            plain.execute("COMMIT")

        def plain_update() -> None:
            plain.execute("BEGIN IMMEDIATE")
            plain.execute("UPDATE todo SET done = TRUE WHERE id = ?", (next(updated),))
            plain.execute("COMMIT")

        inserts = in_turns(
            TURNS,
            times=TIMES,
            plain=plain_insert,
            run=lambda: replica.run(create_todo, id=next(recorded), project_id="p1"),
        )
        updates = in_turns(
            TURNS,
            times=TIMES,
            plain=plain_update,
            run=lambda: replica.run(finish, id=next(finished), project_id="p1"),
        )
        many = in_turns(
            TURNS,
            times=FEW,
            plain=plain_inserts,
            run=lambda: replica.run(create_todos, count=ROWS, project_id="p1"),
        )
        replica.close()
        plain.close()
    tell(
        f"local run: median of {TURNS} turns of {TIMES}, on a file",
        ["action", "plain us", "run us", "ratio", "runs per s"],
        [
            [name, us["plain"], us["run"], us["run"] / us["plain"], 1e6 / us["run"]]
            for name, us in (
                ("insert of a row", inserts),
                ("update of a row", updates),
                (f"insert of {ROWS} rows", many),
            )
        ],
    )


if __name__ == "__main__":
    main()

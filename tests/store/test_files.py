"""Database files: whose they are, what is wrong with them, and what survives."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest

import synchrotron
from synchrotron import App, Context, Replica
from synchrotron.errors import (
    Closed,
    DamagedFile,
    FileError,
    MachineError,
    NewerFile,
    NotAReplica,
    OtherApplication,
    UsageError,
    WrongUser,
)
from synchrotron.replica import engine
from synchrotron.store.database import _flush as flush

Do = Callable[..., Any]
Make = Callable[..., App]


@pytest.fixture
def file(tmp_path: Path, application: Make, do: Do) -> Path:
    """A closed replica of alice's with one row, in a folder of its own."""
    path = tmp_path / "home" / "replica.db"
    path.parent.mkdir()
    with application().open(path, user="alice") as replica:
        do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    return path


class Folder:
    """What is in a folder, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = self.read()

    def read(self) -> dict[str, bytes]:
        return {
            p.name: p.read_bytes()
            for p in sorted(self.path.iterdir())
            # SQLite makes an index of the log where it reads, and empties the log.
            if not p.name.endswith("-shm") and p.stat().st_size
        }

    def is_unchanged(self) -> bool:
        return self.read() == self.files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Callable[[Path], Folder]]:
    return lambda file: Folder(file.parent)  # type: ignore[return-value]


# ---- ordinary life -------------------------------------------------------------------


def test_what_was_committed_is_there_when_a_file_is_opened_again(
    file: Path, application: Make, do: Do
) -> None:
    with application().open(file) as replica:
        assert replica.query("SELECT id, n FROM item") == [{"id": "a", "n": 1}]
        [record] = replica.log()
        do(replica, "UPDATE item SET n = 2")
        assert [r.id for r in replica.log()] == [record.id, f"{record.client_id}-2"]
        assert [r.user for r in replica.log()] == ["alice", "alice"]
    assert [p.name for p in file.parent.iterdir()] == [file.name], "one file, nothing beside it"


@pytest.mark.spec("O2", "O5")
def test_clock_and_count_go_on_where_they_were(file: Path, application: Make, do: Do) -> None:
    keys, ids = [], []
    for _ in range(3):
        with application().open(file, clock=lambda: 5) as replica:
            do(replica, "UPDATE item SET n = n + 1")
            keys, ids = ([r.order_key for r in replica.log()], [r.id for r in replica.log()])
    assert keys == sorted(set(keys))
    assert [id.rpartition("-")[2] for id in ids] == ["1", "2", "3", "4"]


def test_a_closed_replica_says_so(file: Path, application: Make) -> None:
    replica = application().open(file)
    replica.close()
    replica.close()
    for use in (replica.log, replica.outcomes, lambda: replica.query("SELECT 1")):
        with pytest.raises(Closed, match=f"replica {file} is closed"):
            use()


def test_a_path_may_be_of_any_kind(tmp_path: Path, application: Make) -> None:
    odd = tmp_path / "a b?c#d%20é.db"
    application().open(odd, user="alice").close()
    application().open(str(odd)).close()
    assert [p.name for p in tmp_path.iterdir()] == [odd.name]


def test_a_failed_first_run_leaves_nothing(path: str, application: Make, do: Do) -> None:
    app = application()

    @app.action
    def fail(ctx: Context) -> None:
        ctx.execute("INSERT INTO item (id) VALUES ('a')")
        raise LookupError("no")

    with app.open(path, user="alice") as replica:
        with pytest.raises(LookupError, match="no"):
            replica.run(fail)
        assert replica.query("SELECT * FROM item") == []
        assert replica.log() == replica.outcomes() == []
        do(replica, "INSERT INTO item (id) VALUES ('a')")
        assert replica.log()[0].id.endswith("-1")


# ---- files that are not this replica's --------------------------------------------------


@pytest.mark.parametrize(
    ("pragma", "error"),
    [
        ("application_id = 1", NotAReplica),
        ("application_id = 0", NotAReplica),
        ("user_version = 99", NewerFile),
    ],
)
def test_a_file_of_another_kind_or_a_newer_format_is_refused_unchanged(
    file: Path, application: Make, folder: Any, pragma: str, error: type[FileError]
) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute(f"PRAGMA {pragma}")
        other.commit()
    seen = folder(file)
    with pytest.raises(error, match=r"replica\.db"):
        application().open(file, user="alice")
    assert seen.is_unchanged()


@pytest.mark.parametrize("mode", ["delete", "wal", "wal left open"])
def test_another_programs_database_is_refused_and_stays_byte_for_byte(
    tmp_path: Path, application: Make, folder: Any, mode: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    theirs = home / "theirs.db"
    other = sqlite3.connect(theirs, isolation_level=None)
    other.execute(f"PRAGMA journal_mode = {mode.partition(' ')[0]}")
    other.execute("CREATE TABLE item (id TEXT PRIMARY KEY, n)")
    other.execute("INSERT INTO item VALUES ('theirs', 1)")
    if mode == "wal left open":  # as a killed program leaves it: its newest rows are in the log
        copies = {p.name: p.read_bytes() for p in home.iterdir() if not p.name.endswith("-shm")}
        other.close()
        for name, content in copies.items():
            (home / name).write_bytes(content)
    other.close()
    seen = folder(theirs)
    assert ("theirs.db-wal" in seen.files) == (mode == "wal left open")
    with pytest.raises(NotAReplica, match="database of another program: give the replica a file"):
        application().open(theirs, user="alice")
    assert seen.is_unchanged()
    with closing(sqlite3.connect(theirs)) as again:
        assert again.execute("SELECT * FROM item").fetchall() == [("theirs", 1)]
        assert again.execute("PRAGMA journal_mode").fetchone() == (mode.partition(" ")[0],)


def test_another_applications_file_is_refused_unchanged(
    file: Path, application: Make, folder: Any
) -> None:
    seen = folder(file)
    with pytest.raises(OtherApplication, match="belongs to application 'bench', not 'other'"):
        App("other", schema=application().schema.source).open(file, user="alice")
    assert seen.is_unchanged()


def test_a_file_whose_schema_differs_is_refused_unchanged(
    file: Path, application: Make, folder: Any
) -> None:
    seen = folder(file)
    changed = application().schema.source.replace("note TEXT", "note VARCHAR(9)")
    with pytest.raises(OtherApplication, match=r"A schema grows by App\(migrations=…\)"):
        application(changed).open(file)
    assert seen.is_unchanged()


def test_spaces_and_comments_do_not_make_another_schema(file: Path, application: Make) -> None:
    source = application().schema.source
    spaced = source.replace("\n", "\n\n").replace("n INTEGER,", "n  INTEGER, -- a number\n")
    assert spaced != source
    application(spaced).open(file).close()


MORE = ["ALTER TABLE item ADD COLUMN extra INTEGER", "CREATE INDEX item_n ON item (n)"]


def test_migrations_are_run_once_and_a_version_without_them_is_refused(
    file: Path, application: Make, do: Do, folder: Any
) -> None:
    for migrations in (MORE[:1], MORE, MORE):
        with application(migrations=migrations).open(file) as replica:
            do(replica, "UPDATE item SET extra = n")
            assert replica.query("SELECT extra FROM item") == [{"extra": 1}]
    seen = folder(file)
    with pytest.raises(NewerFile, match=r"has seen 2 migrations .* has 1: upgrade the application"):
        application(migrations=MORE[:1]).open(file)
    assert seen.is_unchanged()


@pytest.mark.parametrize(
    "options", [{}, {"migrations": MORE}, {"local": "CREATE TABLE own (x)"}], ids=str
)
def test_another_users_file_is_refused_unchanged(
    file: Path, application: Make, folder: Any, options: dict[str, Any]
) -> None:
    seen = folder(file)
    with pytest.raises(WrongUser, match="belongs to user 'alice', not 'bob': open another file"):
        application(**options).open(file, user="bob")
    assert seen.is_unchanged()
    application(**options).open(file, user="alice").close()


def test_a_file_belongs_to_its_first_user(tmp_path: Path, application: Make, do: Do) -> None:
    file = tmp_path / "replica.db"
    with application().open(file) as replica, pytest.raises(UsageError, match="user=…"):
        do(replica, "INSERT INTO item (id) VALUES ('a')")
    application().open(file, user="bob").close()
    with pytest.raises(WrongUser):
        application().open(file, user="alice")


# ---- damage --------------------------------------------------------------------------


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        half,
        lambda content: content[:-4096],
        lambda content: content[:5000],
        lambda content: content[:4096],
        lambda content: content[:700],
        lambda content: content[:90],
        lambda content: b"this is not a database, but it is long enough " * 200,
        lambda content: os.urandom(0) + bytes(range(256)) * 64,
        lambda content: b"\0" * 8192,
        lambda content: b"SQLite format 3\0" + b"\xff" * 9000,
        lambda content: content[:100] + b"\xff" * (len(content) - 100),
    ],
    ids=[
        "half", "a page short", "cut in page 2", "page 1 only", "700 bytes", "90 bytes",
        "text", "bytes", "zeros", "a header of nonsense", "a header and nonsense",
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_unchanged_with_the_remedy(
    file: Path, application: Make, folder: Any, damage: Callable[[bytes], bytes]
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    seen = folder(file)
    with pytest.raises(FileError, match=r"replica\.db") as refusal:
        application().open(file, user="alice")
    if not isinstance(refusal.value, NotAReplica):
        assert isinstance(refusal.value, DamagedFile)
        assert "Restore it from a copy" in str(refusal.value)
    assert seen.is_unchanged()


def test_a_page_that_is_damaged_later_is_reported_where_it_is_met(
    file: Path, application: Make, do: Do
) -> None:
    with application().open(file) as replica:
        do(
            replica,
            "WITH RECURSIVE c (i) AS (SELECT 1 UNION SELECT i + 1 FROM c WHERE i < 3000) "
            "INSERT INTO item (id, note) SELECT 'id' || i, printf('%100d', i) FROM c",
        )
    content = bytearray(file.read_bytes())
    for at in range(0, len(content), 4096):
        if b"#id" in content[at : at + 4096]:  # rows of the table, label and all
            content[at : at + 64] = b"\xff" * 64
    file.write_bytes(content)
    with application().open(file) as replica:
        with pytest.raises(DamagedFile, match="Restore it from a copy"):
            replica.query("SELECT sum(length(note)) AS n FROM item")
        with pytest.raises((DamagedFile, MachineError)):
            do(replica, "UPDATE item SET note = note || 'x'", swallow=True)
        assert len(replica.query("SELECT 1 AS one")) == 1


def test_a_path_that_cannot_be_a_file_is_the_machines_error(
    tmp_path: Path, application: Make
) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "replica.db"):
        with pytest.raises(MachineError, match="opening"):
            application().open(path, user="alice")


def test_an_empty_file_becomes_a_replica(tmp_path: Path, application: Make) -> None:
    file = tmp_path / "replica.db"
    file.touch()
    application().open(file, user="alice").close()
    assert file.read_bytes()[:15] == b"SQLite format 3"


# ---- durability ----------------------------------------------------------------------


class Commits:
    """With which PRAGMA synchronous each COMMIT of a connection was made."""

    def __init__(self, replica: Replica) -> None:
        self.made: list[int] = []
        self._writer = replica._engine.store.writer
        self._writer.exec_trace = self._trace

    def _trace(self, cursor: Any, sql: str, bindings: Any) -> bool:
        if sql == "COMMIT":
            self._writer.exec_trace = None
            self.made.append(self._writer.execute("PRAGMA synchronous").get)
            self._writer.exec_trace = self._trace
        return True


NORMAL, FULL = 1, 2


@pytest.mark.spec("O6", "O7")
def test_what_is_asked_is_flushed_to_disk_before_it_is_sent(
    file: Path, application: Make, do: Do
) -> None:
    with application().open(file) as replica:
        commits = Commits(replica)
        do(replica, "UPDATE item SET n = 2")
        assert commits.made == [NORMAL]
        replica._engine.ask()
        assert commits.made == [NORMAL, FULL]
        replica._engine.ask_snapshot()
        assert commits.made == [NORMAL, FULL, FULL]
        do(replica, "UPDATE item SET n = 3")
        assert commits.made == [NORMAL, FULL, FULL, NORMAL]


KILLED = """
    import os, signal, sys
    from synchrotron import App, Context

    app = App("bench", schema={schema!r})

    @app.action
    def add(ctx: Context, *, n: int) -> None:
        ctx.execute("INSERT INTO item (id, n) VALUES (?, ?)", (str(n), n))
        ctx.execute("UPDATE item SET n = n + 1 WHERE id = '0'")
        if n == {last}:
            os.kill(os.getpid(), signal.SIGKILL)

    replica = app.open(sys.argv[1], user="alice")
    for n in range({last} + 1):
        replica.run(add, n=n)
        print(n, flush=True)
"""


def test_a_killed_process_loses_nothing_committed(
    tmp_path: Path, application: Make, do: Do
) -> None:
    """It dies within its last action, which leaves no trace."""
    last = 25
    file, script = tmp_path / "replica.db", tmp_path / "killed.py"
    schema = application().schema.source
    script.write_text(textwrap.dedent(KILLED).format(schema=schema, last=last))
    source = Path(synchrotron.__file__).parents[1]
    died = subprocess.run(
        [sys.executable, str(script), str(file)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout.split() == [str(n) for n in range(last)]
    with application().open(file) as replica:
        assert replica.query("SELECT count(*) AS n FROM item") == [{"n": last}]
        assert replica.query("SELECT n FROM item WHERE id = '0'") == [{"n": last}]
        assert [record.args for record in replica.log()] == [{"n": n} for n in range(last)]
        do(replica, "DELETE FROM item")
        assert replica.log()[-1].id.endswith(f"-{last + 1}")


def test_a_query_and_an_action_do_not_wait_for_each_other(
    file: Path, application: Make, do: Do
) -> None:
    """Each query reads the last commit, on a connection of its own."""
    with application().open(file) as replica:

        @replica._definition.action
        def looked_at(ctx: Context) -> Any:
            ctx.execute("UPDATE item SET n = 2")
            return replica.query("SELECT n FROM item")

        assert replica.run(looked_at).result == [{"n": 1}]
        assert replica.query("SELECT n FROM item") == [{"n": 2}]
        with replica._database.reading() as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT n FROM item").get == 2
            do(replica, "UPDATE item SET n = 3")
            assert reader.execute("SELECT n FROM item").get == 2
            reader.execute("ROLLBACK")
        assert replica.query("SELECT n FROM item") == [{"n": 3}]


def test_two_replicas_of_one_file_take_turns(file: Path, application: Make, do: Do) -> None:
    with application().open(file) as one, application().open(file) as two:
        for _ in range(5):
            do(one, "UPDATE item SET n = n + 1")
            do(two, "UPDATE item SET n = n + 1")
        assert one.query("SELECT n FROM item") == two.query("SELECT n FROM item") == [{"n": 11}]
        assert [r.id.rpartition("-")[2] for r in one.log()] == [str(i) for i in range(1, 12)]
        assert [r.order_key for r in one.log()] == sorted(r.order_key for r in one.log())


def test_a_flush_that_cannot_begin_is_no_failure_of_a_run(
    file: Path, application: Make, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RUNS_PER_FLUSH", 1)
    with application().open(file) as replica:
        monkeypatch.setattr(Thread, "start", Mock(side_effect=RuntimeError("can't start")))
        do(replica, "INSERT INTO item (id, n) VALUES ('b', 1)")
        assert [row["id"] for row in replica.query("SELECT id FROM item ORDER BY id")] == ["a", "b"]


def test_a_flush_of_what_is_not_there_is_none(tmp_path: Path) -> None:
    flush(str(tmp_path / "gone-wal"))

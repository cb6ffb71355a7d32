"""A replica's file is read from outside: never changed, never in anyone's way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw
import pytest
from tests.replica import shop
from tests.replica.shop import create_project, create_todo

from synchrotron import App
from synchrotron.app.ddl import as_written
from synchrotron.errors import DamagedFile, EncryptionMissing, NewerFile, NotAReplica, WrongKey
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.status import read_status
from synchrotron.store.turn import Turn
from synchrotron.testing import MemoryServer
from synchrotron.testing.simulation.warehouse import make_warehouse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alice.db"
    with shop.app.open(path, user="alice") as replica:
        replica.run(create_project, id="p")
        replica.run(create_todo, project="p", text="Buy milk")
    return path


def test_what_is_refused_says_whose_file_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("milk\n" * 1000)
    other, empty = tmp_path / "other.db", tmp_path / "empty.db"
    apsw.Connection(str(other)).execute("CREATE TABLE t (x)")
    empty.touch()
    newer = tmp_path / "newer.db"
    shop.app.open(newer, user="alice").close()
    apsw.Connection(str(newer)).execute("PRAGMA user_version = 99")
    for path, kind, words in (
        (tmp_path / "none.db", NotAReplica, "no such file"),
        (tmp_path, NotAReplica, "no such file"),
        (text, DamagedFile, "no SQLite database, or an encrypted one"),
        (other, NotAReplica, "of another program"),
        (empty, NotAReplica, "no replica has been opened"),
        (newer, NewerFile, "upgrade"),
    ):
        with pytest.raises(kind, match=words):
            ReplicaFile(path)
        assert not (tmp_path / "none.db").exists()


def test_looking_changes_nothing_in_the_file(path: Path) -> None:
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with ReplicaFile(path) as file:
        read_status(file)
        list(file.outcomes())
        with pytest.raises(apsw.ReadOnlyError):
            file.connection.execute("DELETE FROM synchrotron_action")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_a_replica_runs_on_while_its_file_is_looked_at_and_one_moment_is_seen(path: Path) -> None:
    with shop.app.open(path, user="alice") as replica, ReplicaFile(path) as file:
        assert len(file.log) == 2
        replica.run(create_todo, project="p", text="Bake bread")
        replica.prune(keep=0)
        assert len(file.log) == 2
        assert len(file.log.pending()) == 2
    with ReplicaFile(path) as file:
        assert len(file.log) == 3


def test_the_schema_is_read_from_the_file_as_its_author_wrote_it(
    path: Path, tmp_path: Path
) -> None:
    with ReplicaFile(path) as file:
        assert file.schema.tables == shop.app.schema.tables
    hard = make_warehouse(private=True)
    hard.open(tmp_path / "hard.db", user="alice").close()
    with ReplicaFile(tmp_path / "hard.db") as file:
        assert file.schema.tables == hard.schema.tables


def test_the_schema_of_a_migrated_file_has_what_migrations_added(tmp_path: Path) -> None:
    schema = """CREATE TABLE note (
        id TEXT PRIMARY KEY, text TEXT NOT NULL,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED, CHECK (text <> ''))"""
    migration = """
        ALTER TABLE note ADD COLUMN stars INTEGER NOT NULL DEFAULT 0; -- how good
        CREATE TABLE tag (
            id TEXT PRIMARY KEY, note_id TEXT NOT NULL REFERENCES note (id) ON DELETE CASCADE,
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED);
        CREATE UNIQUE INDEX tags ON tag (note_id, id);"""
    path = tmp_path / "notes.db"
    App("notes", schema=schema, local="CREATE TABLE draft (text TEXT)").open(
        path, user="alice"
    ).close()
    newer = App("notes", schema=schema, migrations=[migration])
    newer.open(path, user="alice").close()
    with ReplicaFile(path) as file:
        assert file.schema.tables == newer.schema.tables
        assert file.state.migrations == 1


def test_what_completes_a_statement_is_taken_out_again_and_nothing_else() -> None:
    text = "CREATE TABLE t (a TEXT DEFAULT 'x WITHOUT ROWID' /* WITHOUT ROWID */, b TEXT)"
    assert as_written(text) == text
    assert as_written(f"{text} WITHOUT ROWID") == f"{text} "


def test_who_syncs_a_file_is_seen_without_taking_the_turn(path: Path) -> None:
    turn = Turn(f"{path}-sync")
    with ReplicaFile(path) as file:
        assert not file.is_synced_by_a_process()
        assert not Path(f"{path}-sync").exists()
        assert turn.take()
        # A lock of another connection in this process counts as another process's.
        assert file.is_synced_by_a_process()
        turn.give_up()
        assert not file.is_synced_by_a_process()
        assert turn.take()
        turn.give_up()


def test_a_file_in_a_folder_that_nobody_may_write_to_can_be_read(path: Path) -> None:
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.parent.chmod(0o500)
    try:
        with ReplicaFile(path) as file:
            assert read_status(file).pending == 2
    finally:
        path.parent.chmod(0o700)


def test_the_outcomes_are_those_that_the_replica_tells(tmp_path: Path) -> None:
    server = MemoryServer(shop.app, {"alice": {"all"}})
    with shop.app.open(tmp_path / "a.db", transport=server.connect("alice")) as replica:
        replica.run(shop.put_on_sale, id="cup", stock=1)
        replica.sync()
        replica.prune(keep=0)
        server.policy = lambda user, op, table, row: row.get("id") != "jug"
        replica.run(shop.put_on_sale, id="jug", stock=1)
        replica.sync()
        replica.run(shop.put_on_sale, id="pot", stock=1)
        with ReplicaFile(tmp_path / "a.db") as file:
            told = {outcome.id: outcome for _, outcome in file.outcomes()}
        assert told == {outcome.id: outcome for outcome in replica.outcomes()}
        assert {outcome.state for outcome in told.values()} == {"accepted", "parked", "pending"}


@pytest.mark.skipif(hasattr(apsw, "mc_version"), reason="this SQLite can encrypt")
def test_a_key_is_refused_where_nothing_can_decrypt(path: Path) -> None:
    with pytest.raises(EncryptionMissing, match="apsw-sqlite3mc"):
        ReplicaFile(path, "secret")


@pytest.mark.skipif(not hasattr(apsw, "mc_version"), reason="apsw-sqlite3mc is not installed")
@pytest.mark.parametrize("key", ["correct horse", b"\x00\xff" * 16])
def test_an_encrypted_file_is_read_with_its_key_alone(tmp_path: Path, key: str | bytes) -> None:
    path = tmp_path / "alice.db"
    with shop.app.open(path, user="alice", key=key) as replica:
        replica.run(create_project, id="p")
    with ReplicaFile(path, key) as file:
        assert read_status(file).encrypted and len(file.log) == 1
    with pytest.raises(WrongKey):
        ReplicaFile(path, "wrong")
    with pytest.raises(DamagedFile, match="SYNCHROTRON_KEY"):
        ReplicaFile(path)

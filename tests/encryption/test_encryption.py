"""Encryption at rest. Without `apsw-sqlite3mc`, only what is said of that can be tested."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from synchrotron import App, Context
from synchrotron.errors import DamagedFile, EncryptionMissing, UsageError, WrongKey
from synchrotron.testing import MemoryServer

CAN_ENCRYPT = hasattr(apsw, "mc_version")
encrypting = pytest.mark.skipif(
    not CAN_ENCRYPT, reason="apsw-sqlite3mc is not installed; .ci/run tests with it"
)
SECRET = "the patient has a cough"

app = App(
    "clinic",
    schema="""
        CREATE TABLE finding (
            id TEXT PRIMARY KEY,
            text TEXT NOT NULL,
            audience_key TEXT GENERATED ALWAYS AS ('user:alice') STORED
        );
    """,
)


@app.action
def note(ctx: Context, *, text: str) -> None:
    ctx.execute("INSERT INTO finding (text) VALUES (?)", (text,))


@pytest.mark.skipif(CAN_ENCRYPT, reason="this SQLite can encrypt")
def test_a_key_without_a_library_that_encrypts_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "alice.db"
    with pytest.raises(EncryptionMissing, match="apsw-sqlite3mc"):
        app.open(path, user="alice", key="secret")
    assert not path.exists() or path.stat().st_size == 0, "nothing was written unencrypted"


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty key"):
        app.open(tmp_path / "alice.db", user="alice", key="")


@encrypting
@pytest.mark.parametrize(
    "key", ["correct horse battery staple", "it's; -- quoted", b"\x00\xff" * 16]
)
def test_nothing_of_the_data_is_readable_on_the_disk_while_open_or_closed(
    tmp_path: Path, key: str | bytes
) -> None:
    path = tmp_path / "alice.db"
    server = MemoryServer(app)
    with app.open(path, transport=server.connect("alice"), key=key) as replica:
        for _ in range(50):
            replica.run(note, text=SECRET)
        replica.sync()
        assert len(replica.query("SELECT * FROM finding")) == 50, "a reader has the key as well"
        assert (tmp_path / "alice.db-wal").stat().st_size > 0
        assert_unreadable(tmp_path)
    assert_unreadable(tmp_path)
    with app.open(path, user="alice", key=key) as replica:
        assert len(replica.query("SELECT * FROM finding")) == 50


def assert_unreadable(folder: Path) -> None:
    files = [file for file in folder.iterdir() if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        for word in (SECRET, "finding", "synchrotron", "SQLite format 3", "alice"):
            assert word.encode() not in content, f"{word!r} can be read in {file.name}"


@encrypting
def test_without_a_key_the_same_is_readable(tmp_path: Path) -> None:
    """The check above can fail."""
    with app.open(tmp_path / "alice.db", user="alice") as replica:
        replica.run(note, text=SECRET)
        with pytest.raises(AssertionError, match="can be read"):
            assert_unreadable(tmp_path)


@encrypting
@pytest.mark.parametrize("wrong", ["other", b"other"])
def test_a_wrong_key_is_a_clear_error_and_changes_nothing(
    tmp_path: Path, wrong: str | bytes
) -> None:
    path = tmp_path / "alice.db"
    with app.open(path, user="alice", key="right") as replica:
        replica.run(note, text=SECRET)
    before = path.read_bytes()
    with pytest.raises(WrongKey, match=r"alice\.db cannot be read with this key"):
        app.open(path, user="alice", key=wrong)
    with pytest.raises(DamagedFile, match="key="):
        app.open(path, user="alice")
    assert path.read_bytes() == before
    with app.open(path, user="alice", key="right") as replica:
        assert len(replica.query("SELECT * FROM finding")) == 1


@encrypting
def test_a_key_for_a_file_that_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alice.db"
    with app.open(path, user="alice"):
        pass
    with pytest.raises(WrongKey, match="cannot be read with this key"):
        app.open(path, user="alice", key="right")

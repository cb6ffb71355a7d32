"""What a check of a file finds, and the checks of the file itself: SQLite's, and the guards."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

import apsw
import msgspec

from synchrotron.errors import SchemaError
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.status import size_of
from synchrotron.store.guard import WRITES

NEW_FILE = (
    "close the application, move the file (with its -wal and -shm) away and let the application "
    "open a new one: what was synced comes back from the server. What was not is in the old "
    "file's log: synchrotron log --pending"
)
FINDINGS_MAX = 10
LOG_BYTES_MAX = 256_000_000
FREE_BYTES_MIN = 100_000_000


class Finding(msgspec.Struct, frozen=True):
    """Something that somebody should know, and what to do about it.

    A `fault` is something that must not be; a `notice` may be as it should.
    """

    level: Literal["fault", "notice"]
    what: str
    remedy: str


def fault(what: str, remedy: str) -> Finding:
    return Finding("fault", what, remedy)


def notice(what: str, remedy: str) -> Finding:
    return Finding("notice", what, remedy)


class Check(NamedTuple):
    """One look at a file. `now_ms` is this machine's clock."""

    name: str
    find: Callable[[ReplicaFile, int], Iterator[Finding]]


# ---- versions ----------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """What of this machine has a say in how a replica behaves."""
    return {
        "pysynchrotron": installed_version("pysynchrotron") or "run from its source",
        "Python": ".".join(map(str, sys.version_info[:3])),
        "SQLite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "msgspec": msgspec.__version__,
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_versions(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    yield from findings_of_libraries(
        installed=installed_version("apsw-sqlite3mc") is not None,
        encrypts=hasattr(apsw, "mc_version"),
    )


def findings_of_libraries(*, installed: bool, encrypts: bool) -> Iterator[Finding]:
    """Both packages have the same module, and the one that is installed last counts."""
    if installed and not encrypts:
        yield notice(
            "apsw-sqlite3mc is installed, and apsw was installed over it: nothing encrypts",
            "pip install --force-reinstall --no-deps apsw-sqlite3mc",
        )


# ---- the file ----------------------------------------------------------------------------


def check_place(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    free = shutil.disk_usage(file.path.parent).free
    yield from findings_of_room(free, size_of(Path(f"{file.path}-wal")))


def findings_of_room(free_bytes: int, log_bytes: int) -> Iterator[Finding]:
    """Whether there is room to go on writing."""
    if free_bytes < FREE_BYTES_MIN:
        yield fault(
            f"{free_bytes // 1_000_000} MB are free where the file lies",
            "make room: a full disk stops every action (nothing is lost by it)",
        )
    if log_bytes > LOG_BYTES_MAX:
        yield notice(
            f"the write-ahead log has grown to {log_bytes // 1_000_000} MB",
            "end whatever reads the file for long; the log is emptied when its last process closes",
        )


def check_integrity(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """SQLite's own check of pages, indexes and constraints."""
    try:
        found = [
            str(line)
            for (line,) in file.connection.execute(f"PRAGMA integrity_check({FINDINGS_MAX})")
        ]
    except apsw.Error as error:
        found = [str(error)]
    for line in found:
        if line != "ok":
            yield fault(f"SQLite: {line}", NEW_FILE)


def check_foreign_keys(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Rows that point to none. The one they mean may be in an audience of others (A9)."""
    found: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in file.connection.execute("PRAGMA foreign_key_check"):
        found[table, parent] = found.get((table, parent), 0) + 1
    for (table, parent), rows in found.items():
        yield notice(
            f"{rows} rows of {table} point to rows of {parent} that are not here",
            f"this is as it should be where those of {parent} belong to audiences that this user "
            "does not share; otherwise put the two tables into the same audience",
        )


def check_guards(file: ReplicaFile, now_ms: int) -> Iterator[Finding]:
    """Whether other programs are kept from writing to synced tables."""
    try:
        tables = file.schema.tables
    except SchemaError as error:
        yield fault(f"another program has altered the tables: {error}", NEW_FILE)
        return
    there = {
        name
        for (name,) in file.connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        )
    }
    for table in tables:
        missing = [
            write
            for write in WRITES.values()
            if f"synchrotron_guard_{table}_{write.lower()}" not in there
        ]
        if missing:
            yield fault(
                f"other programs may {', '.join(missing)} on {table}: the triggers are gone that "
                "refuse it",
                NEW_FILE,
            )

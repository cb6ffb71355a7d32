"""One SQLite file: its connections, its transactions, and whose fault an error is.

A single connection writes. Queries have connections of their own, which read the last
commit and never wait (WAL). `synchronous` is NORMAL: a killed process loses nothing
committed. What leaves the machine is first flushed by a durable transaction (O7).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import apsw

from synchrotron.errors import Closed, DamagedFile, MachineError, NewerFile, NotAReplica, WrongKey
from synchrotron.store.encryption import Key, unlock

MEMORY = ":memory:"
BUSY_TIMEOUT_MS = 10_000
CHECKPOINT_PAGES = 4_000
APPLICATION_ID = 0x53796E63  # "Sync"
FORMAT = 1

# Failures of the machine: never part of history (A7).
MACHINE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ReadOnlyError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.CantOpenError,
    apsw.ProtocolError,
    apsw.NotADBError,
    apsw.InterruptError,
    apsw.AbortError,
    MemoryError,
    RecursionError,
)


CLOSED = (apsw.ConnectionClosedError, apsw.CursorClosedError)
"""The replica was closed by another thread, or by a callback, while it was used."""


def is_machine_error(error: BaseException) -> bool:
    """Whether an error says something of this machine, not of the application's rules.

    An `OSError` counts if the operating system raised it; `raise PermissionError("…")`
    in an action is the application's own word.
    """
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, (*MACHINE, MachineError)) or not isinstance(error, Exception)


class machine_errors:
    """Raises SQLite's failures of the machine as `MachineError`, `DamagedFile` or `Closed`.

    A class, since a generator's context manager costs three times as much, on every run.
    """

    def __init__(self, doing: str, kinds: tuple[type[BaseException], ...] = MACHINE) -> None:
        self._doing = doing
        self._kinds = kinds

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, CLOSED):
            raise Closed(f"{self._doing}: the replica was closed meanwhile") from error
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            raise DamagedFile(
                f"{self._doing}: the database file is damaged ({error}). Restore it from a copy, "
                "or move it away and open a new one: what was synced comes back from the server. "
                "If it is encrypted, app.open wants its key=…"
            ) from error
        if isinstance(error, self._kinds):
            raise MachineError(f"{self._doing}: {error or type(error).__name__}") from error


class Transaction:
    """See `Database.transaction`."""

    __slots__ = ("_database", "_durable", "_execute")

    def __init__(self, database: Database, durable: bool) -> None:
        self._database = database
        self._durable = durable
        # A cursor of its own: `Connection.execute` would make one for each statement.
        self._execute = database.writer.cursor().execute

    def __enter__(self) -> None:
        try:
            if self._durable:
                self._execute("PRAGMA synchronous = FULL")
            self._execute("BEGIN IMMEDIATE")
        except CLOSED as error:
            raise Closed(f"the replica {self._database.path} is closed") from error
        except BaseException as error:
            if isinstance(error, MACHINE) or not isinstance(error, Exception):
                self._rollback()  # interrupted, it may have begun all the same
            self._restore()
            if isinstance(error, MACHINE):
                raise MachineError(f"waiting for the database: {error}") from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None:
            try:
                self._execute("COMMIT")
            except BaseException as failure:
                self._undo(failure)
                raise
            if self._durable:
                self._restore()
        else:
            self._undo(error)

    def _undo(self, error: BaseException) -> None:
        """Roll back. Raises `MachineError` where the machine's failure was the reason."""
        self._rollback()
        if self._durable:
            self._restore()
        if isinstance(error, MACHINE):
            raise MachineError(f"the transaction was rolled back: {error}") from error

    def _rollback(self) -> None:
        if self._database.writer.in_transaction:
            with suppress(apsw.Error):
                self._execute("ROLLBACK")
        self._database.enforce_foreign_keys(True)

    def _restore(self) -> None:
        if self._durable:
            self._execute("PRAGMA synchronous = NORMAL")


def _flush(path: str) -> None:
    # Closing a descriptor of the database itself would drop SQLite's locks; its WAL has none.
    with suppress(OSError), open(path, "rb") as file:
        os.fdatasync(file.fileno())


class Database:
    """The connections to one file, or to a database in memory that nothing outlives."""

    def __init__(self, path: str | os.PathLike[str], key: Key | None = None) -> None:
        self.path = os.fspath(path)
        self.in_memory = self.path == MEMORY
        self._key = None if self.in_memory else key
        self.is_plain_file = not self.in_memory and key is None
        """Whether anyone who can read the file can read what is in it."""
        self._readers: list[apsw.Connection] = []
        self._reader_made: Callable[[apsw.Connection], None] = lambda connection: None
        self._lock = threading.Lock()
        self._closed = False
        self.foreign_keys = True
        self.writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        self._ordinary, self._durable = Transaction(self, False), Transaction(self, True)
        try:
            with machine_errors(f"opening {self.path}"):
                # Closing would otherwise write to another program's file.
                self.writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                self.is_new = self._identify()
                self.writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
                self._configure(self.writer)
        except BaseException:
            self.close()
            raise

    def _connect(self, flags: int) -> apsw.Connection:
        with machine_errors(f"opening {self.path}"):
            connection = apsw.Connection(self.path, flags=flags)
        if self._key is not None:
            try:
                unlock(connection, self._key)
            except BaseException:
                connection.close()
                raise
        return connection

    def _identify(self) -> bool:
        """Whether the file is still empty. Nothing is changed before this is known."""
        try:
            return identify(self.writer, self.path)
        except apsw.NotADBError as error:
            if self._key is None:
                raise
            raise WrongKey(
                f"{self.path} cannot be read with this key: give the one that it was made with"
            ) from error

    def make_ours(self) -> None:
        """Mark an empty file as a replica's."""
        self.writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.writer.execute(f"PRAGMA user_version = {FORMAT}")

    def _configure(self, connection: apsw.Connection) -> None:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        # Runs of actions touch the same few pages again and again: checkpointing less
        # often writes those once instead of many times.
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
        # The file's own triggers only guard it against foreign programs.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)

    # ---- transactions -------------------------------------------------------------

    def transaction(self, *, durable: bool = False) -> Transaction:
        """A writing transaction: commits at the end, rolls back on any error.

        `durable`: its commit, and so every one before it, is on the disk when it ends.
        """
        return self._durable if durable else self._ordinary

    def flush_soon(self) -> None:
        """Have the system write to the disk what was committed, beside what is done next.

        It promises nothing: a durable commit that comes after has less to wait for. That is
        20 of 50 ms when a request for a thousand runs is made meanwhile.
        """
        if self.in_memory or not hasattr(os, "fdatasync"):
            return
        with suppress(RuntimeError):  # there is no thread to be had: at the end, too
            threading.Thread(target=_flush, args=(f"{self.path}-wal",), daemon=True).start()

    def enforce_foreign_keys(self, on: bool) -> None:
        """Switch foreign keys, also inside a transaction.

        Off while patches are applied or undone: rows may point to ones that this user
        does not see. The switch expires every prepared statement, so it is made per
        phase, never per row.
        """
        if on is not self.foreign_keys:
            self.writer.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, int(on))
            self.foreign_keys = on

    def unresolved_foreign_keys(self) -> bool:
        """Whether this transaction has left a foreign key pointing nowhere."""
        return self.writer.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0] != 0

    def commits_elsewhere(self) -> int:
        """A number that is another one after a commit that was not the writer's."""
        number: int = self.writer.execute("PRAGMA data_version").get
        return number

    # ---- readers ------------------------------------------------------------------

    def on_reader(self, made: Callable[[apsw.Connection], None]) -> None:
        """Call `made` with every connection that is opened for queries."""
        self._reader_made = made

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """A connection for one query. In memory, the caller holds the writer's lock.

        Raises `Closed`. What is read while another thread closes is read to its end.
        """
        with self._lock:
            if self._closed:
                raise Closed(f"the replica {self.path} is closed")
            reader = self._readers.pop() if self._readers else None
        if self.in_memory:
            yield self.writer
            return
        if reader is None:
            reader = self._connect(apsw.SQLITE_OPEN_READWRITE)
            reader.set_busy_timeout(BUSY_TIMEOUT_MS)
            reader.execute("PRAGMA temp_store = MEMORY")
            self._reader_made(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.append(reader)
            if self._closed:
                self._close_readers()

    def close(self) -> None:
        self._closed = True
        self._close_readers()
        self.writer.close()

    def _close_readers(self) -> None:
        """Close those that no query is using; the others are, when it ends."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()


def identify(connection: apsw.Connection, path: str) -> bool:
    """Whether a file is still empty. Raises `NotAReplica` or `NewerFile` if it is not ours."""
    get = connection.execute
    application: int = get("PRAGMA application_id").get
    format: int = get("PRAGMA user_version").get
    if application == 0 and format == 0 and not get("SELECT count(*) FROM sqlite_master").get:
        return True
    if application != APPLICATION_ID:
        raise NotAReplica(
            f"{path} is a database of another program: give the replica a file of its own"
        )
    if format > FORMAT:
        raise NewerFile(
            f"{path} has format {format}, and this version of pysynchrotron knows "
            f"{FORMAT}: upgrade it"
        )
    return False

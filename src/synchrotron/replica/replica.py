"""The replica: what an application holds in its hands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import apsw
import msgspec

from synchrotron.app.action import Action
from synchrotron.app.context import Parameters
from synchrotron.app.definition import Definition
from synchrotron.app.row import Row
from synchrotron.app.types import formless_text
from synchrotron.app.undo import Undone
from synchrotron.core.ids import ActionId, ClientId, Entropy, as_client_id
from synchrotron.core.records import ActionRecord
from synchrotron.errors import Closed, QueryError, UnknownAction, UsageError
from synchrotron.replica.background import POLL_S, Background
from synchrotron.replica.bell import Bell
from synchrotron.replica.engine import Elsewhere, Engine, Ran
from synchrotron.replica.events import EventName, Listeners, SyncReport
from synchrotron.replica.live import LOOK_S, Live, LiveQueries
from synchrotron.replica.outcomes import Outcome
from synchrotron.replica.syncing import Syncing
from synchrotron.replica.transport import Transport
from synchrotron.store.closing import Closing
from synchrotron.store.database import machine_errors
from synchrotron.store.encryption import Key
from synchrotron.store.store import Store
from synchrotron.store.turn import Turn

if TYPE_CHECKING:
    from sqlalchemy import Executable

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def machine_clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Run(Generic[R]):
    """One run of an action: its id, what it returned at first, and its outcome."""

    __slots__ = ("_replica", "id", "result")

    def __init__(self, replica: Replica, id: ActionId, result: R) -> None:
        self._replica = replica
        self.id = id
        self.result = result
        """What the first run returned; replays do not update it."""

    @property
    def outcome(self) -> Outcome:
        """The outcome as of now, read anew."""
        return self._replica.outcome(self.id)

    def wait(self, timeout_s: float | None = None) -> Outcome:
        """Wait until the server has it, or it is parked or discarded.

        Raises `TimeoutError`.
        """
        return self._replica.wait_for(self.id, timeout_s)

    def __repr__(self) -> str:
        return f"Run(id={self.id!r}, result={self.result!r})"


class Replica(Closing):
    """A local database that takes part. Made by `app.open`; usable from any thread."""

    def __init__(
        self,
        definition: Definition,
        path: str | os.PathLike[str],
        *,
        transport: Transport | None = None,
        user: str | None = None,
        client_id: str | None = None,
        clock: Callable[[], int] | None = None,
        entropy: Entropy | None = None,
        key: Key | None = None,
        strict: bool = False,
        replay_all: bool = False,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._definition = definition
        self._closed = False
        self._listeners = Listeners()
        self._bell = Bell()
        of_token = transport.user if transport else None
        entropy = entropy or os.urandom
        identity = None if client_id is None else _as_client_id(client_id)
        _check_user(user)
        store = Store(
            definition,
            path,
            entropy=entropy,
            client_id=identity,
            user=user or of_token or "",
            key=key,
        )
        self._database = store.database
        self._engine = Engine(store, clock or machine_clock, entropy, replay_all=replay_all)
        self._live = LiveQueries(self._listeners, Elsewhere(self._engine).has_committed)
        self._syncing = Syncing(self._engine, transport, self._listeners, self._announce)
        self._background: Background | None = None
        self._on_close = on_close
        try:
            self._engine.claim(user)
            self._engine.claim(of_token)
            if strict:
                self._engine.be_strict()
        except BaseException:
            self.close()
            raise

    # ---- running and reading ----------------------------------------------------------

    def run(self, action: Action[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Run an action at local speed, offline or not, and record it.

        Raises `ArgumentError`, what the action raises, or `RefusedInAction`; then nothing
        has changed (A6).
        """
        if self._closed:
            self._check_open()
        if not isinstance(action, Action):
            name = getattr(action, "__name__", repr(action))
            raise UnknownAction(f"{name} is not an action: decorate it with @app.action")
        if self._definition.actions.get((action.name, action.version)) is not action:
            raise UnknownAction(
                f"{action.title} is not one of application {self._definition.name!r}"
            )
        return self._told(self._engine.run(action, action.bind(args, kwargs)))

    def undo(self, action_id: str) -> Run[Undone]:
        """Reverse what an action did, by an action that is recorded and replayed like any.

        Of the rows that it changed, those go back that still hold what it left there; the
        result names the others with the reason. Undoing an undo brings it back. Raises
        `CannotUndo` for an action without effect, or whose history is pruned.
        """
        self._check_open()
        return self._told(self._engine.undo(action_id))

    def _told(self, ran: Ran) -> Run[Any]:
        if ran.changes and "tables" in self._listeners:
            self._listeners.emit("tables", {change.table for change in ran.changes})
        if self._background is not None:
            self._background.ran()
        return Run(self, ran.record.id, ran.result)

    @overload
    def query(
        self, sql: str | Executable, params: Parameters = (), *, into: None = None
    ) -> list[Row]: ...

    @overload
    def query(
        self, sql: str | Executable, params: Parameters = (), *, into: type[T]
    ) -> list[T]: ...

    def query(
        self, sql: str | Executable, params: Parameters = (), *, into: type[Any] | None = None
    ) -> Any:
        """Read rows as of the last commit, without waiting for a sync.

        With SQLAlchemy it may be a construct, such as `select(Todo)`.

        `into` converts each row to a dataclass, TypedDict or msgspec Struct. Raises
        `QueryError`, and `WriteOutsideAction` for a statement that writes (A2).
        """
        self._check_open()
        return self._converted(self._rows(sql, params), into)

    @overload
    def live(
        self, sql: str | Executable, params: Parameters = (), *, into: None = None
    ) -> Live[Row]: ...

    @overload
    def live(self, sql: str | Executable, params: Parameters = (), *, into: type[T]) -> Live[T]: ...

    def live(
        self, sql: str | Executable, params: Parameters = (), *, into: type[Any] | None = None
    ) -> Any:
        """The rows of a query now, and again after every commit that may have changed them.

        Iterate over it in a thread (`for`) or in a coroutine (`async for`); see `Live`. It
        ends when it or the replica is closed. Raises at once what `query` raises for the
        text of a query.
        """
        self._check_open()
        store = self._engine.store
        tables = self._reading(lambda reader: store.reads(reader, sql, params))
        given = dict(params) if isinstance(params, Mapping) else tuple(params)
        look = None if self._database.in_memory else self._live.look
        live = Live(lambda: self.query(sql, given, into=into), tables, look)
        self._live.add(live)
        return live

    def _converted(self, rows: list[Row], into: type[Any] | None) -> Any:
        if into is None:
            return rows
        try:
            return [msgspec.convert(dict(row), into) for row in rows]
        except msgspec.ValidationError as error:
            raise QueryError(f"a row does not fit {into.__name__}: {error}") from error

    def _rows(self, sql: str | Executable, params: Parameters) -> list[Row]:
        def read(reader: apsw.Connection) -> list[Row]:
            statements = self._engine.store.queries(reader)
            if isinstance(sql, str):
                return statements.execute(sql, params)
            rows: list[Row] = statements.bridge.read(sql, params)
            return rows

        return self._reading(read)

    def _reading(self, use: Callable[[apsw.Connection], T]) -> T:
        # In memory there is one connection: queries take turns with writing.
        turn = self._engine.lock if self._database.in_memory else nullcontext()
        try:
            with turn, machine_errors("query"), self._database.reading() as connection:
                return use(connection)
        except apsw.Error as error:
            raise QueryError(f"SQLite refuses the query: {error}") from error

    def log(self) -> list[ActionRecord]:
        """The records above the floor, in order, the own pending ones included."""
        self._check_open()
        return self._engine.records()

    def prune(self, *, keep: int = 0) -> int:
        """Forget the history of all but the newest `keep` actions; no row changes (F5).

        Stops at the first pending, unsent or parked action. Gives how many were pruned.
        """
        self._check_open()
        return self._engine.prune(keep)

    # ---- outcomes ---------------------------------------------------------------------

    def outcome(self, action_id: str) -> Outcome:
        """What became of an own action. Raises `UnknownOutcome`."""
        self._check_open()
        return self._engine.outcome(action_id)

    def outcomes(self) -> list[Outcome]:
        """The outcomes of all own actions, in the order of their runs."""
        self._check_open()
        return self._engine.outcomes()

    def parked(self) -> list[Outcome]:
        """Own actions that were set aside, waiting for `retry` or `discard`."""
        return [outcome for outcome in self.outcomes() if outcome.state == "parked"]

    def retry(self, action_id: str) -> Outcome:
        """Bring a parked action back; it keeps its id, and its place while that is open.

        Raises `UsageError` for one that is not parked.
        """
        self._check_open()
        id, revised = self._engine.retry(action_id)
        self._announce(revised.tables, revised.outcomes)
        return self.outcome(id)

    def discard(self, action_id: str) -> Outcome:
        """Give a parked action up for good. Raises `UsageError` for one that is not parked."""
        self._check_open()
        discarded = self._engine.discard(action_id)
        self._announce(set(), [])
        return discarded

    def wait_for(self, action_id: str, timeout_s: float | None = None) -> Outcome:
        """Wait until the server has an action, or it is parked or discarded.

        Raises `TimeoutError`, and `UsageError` in a callback of a sync.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not _is_decided(outcome := self.outcome(action_id)):
            self._syncing.check_outside_callbacks()
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError(
                    f"action {action_id} is still {outcome.state} after {timeout_s} s"
                )
            self._bell.wait(lambda: _is_decided(self.outcome(action_id)), self._nap_s(left_s))
        return outcome

    def _nap_s(self, left_s: float | None) -> float | None:
        """How long to wait before looking again: another process may be the one that syncs."""
        if self._database.in_memory:
            return left_s
        return LOOK_S if left_s is None else min(left_s, LOOK_S)

    # ---- syncing and events -----------------------------------------------------------

    def sync(self) -> SyncReport:
        """Exchange with the server until in step.

        Raises `Offline`, `Unauthorized` or `Blocked`; what was not sent stays queued. Raises
        `UsageError` in a callback of a sync, and `Closed` where the replica is closed meanwhile.
        """
        self._check_open()
        try:
            return self._syncing.sync()
        except Exception:
            self._check_open()  # else what failed is of no interest
            raise

    def syncing(self, *, poll_s: float = POLL_S) -> Background:
        """Keep in step with the server in the background, for as long as a `with` lasts.

        Own runs are uploaded and others' commits taken in as they come; where the server's
        events fail it is asked every `poll_s` seconds. What happens is told by `state` and
        the events of `on`; errors are logged, and what failed is tried again. Of several
        processes that have the file open one syncs, for the runs of all; when it ends,
        another takes over.
        """
        self._check_open()
        if self._background is not None and not self._background.ended:
            raise UsageError("this replica is syncing already")
        self._background = Background(
            self._syncing,
            self._syncing.transport,
            lambda: self._engine.state().cursor,
            Turn(None if self._database.in_memory else f"{self._database.path}-sync"),
            None if self._database.in_memory else Elsewhere(self._engine).has_run,
            poll_s=poll_s,
        )
        return self._background

    def syncing_async(self, *, poll_s: float = POLL_S) -> Background:
        """The same for `async with`: beginning and ending do not hold up the event loop.

        Exchanges, taking in and callbacks happen in a thread of its own.
        """
        return self.syncing(poll_s=poll_s)

    @property
    def state(self) -> str:
        """`offline`, `syncing`, `in step` or `blocked: …`."""
        return self._syncing.state

    def on(self, event: EventName, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call back after each commit that makes `event` happen.

        Gives the function that ends the subscription. What a callback raises is logged.
        """
        return self._listeners.on(event, callback)

    def _announce(self, tables: set[str], outcomes: list[Outcome]) -> None:
        self._bell.ring()
        if tables:
            self._listeners.emit("tables", tables)
        for outcome in outcomes:
            match outcome.state:
                case "changed" | "rejected" | "parked" | "accepted":
                    self._listeners.emit(outcome.state, outcome)

    # ---- its end ----------------------------------------------------------------------

    def close(self) -> None:
        """Close the database. Everything committed is kept; closing twice does no harm.

        Raises `UsageError` inside an action.
        """
        if not self._closed:
            self._engine.check_outside_actions()
            self._closed = True
            try:
                if self._background is not None:
                    self._background.stop()
                if self._on_close is not None:
                    self._on_close()
            finally:  # Ctrl+C may come while the others are waited for
                self._live.close()
                self._bell.ring()  # whoever waits for an outcome is told
                self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the replica {self._database.path} is closed")

    def __repr__(self) -> str:
        return f"<Replica of {self._definition.name!r} in {self._database.path}>"


def _as_client_id(text: str) -> ClientId:
    try:
        return as_client_id(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"client_id: {error}") from error


def _check_user(user: str | None) -> None:
    if user is None:
        return
    complaint = formless_text(user) if isinstance(user, str) else "is no str"
    if complaint:
        raise UsageError(f"user {user!r} {complaint}")


def _is_decided(outcome: Outcome) -> bool:
    """Whether the server has an action, or it was set aside."""
    return outcome.seq is not None or outcome.state in ("parked", "discarded")

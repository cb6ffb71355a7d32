"""What a replica does to its database: each method is one transaction.

No network and no callbacks here: a request goes out and an answer comes in as values, and
what happened is returned. Any thread may call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import apsw
import msgspec

from synchrotron.app.action import Action, Arguments
from synchrotron.app.undo import Undone
from synchrotron.core.clock import FIRST, Timestamp, order_key, tick, to_datetime
from synchrotron.core.ids import ActionId, Entropy, action_id, new_seed
from synchrotron.core.messages import (
    Download,
    Duplicate,
    Exchange,
    Install,
    Limit,
    SnapshotChunk,
    SnapshotHead,
    SnapshotRequest,
    Superseded,
    SyncAnswer,
    SyncRequest,
)
from synchrotron.core.patches import RowKey
from synchrotron.core.records import ActionRecord
from synchrotron.errors import (
    NewerFile,
    ProtocolError,
    UnknownOutcome,
    UsageError,
    WrongUser,
)
from synchrotron.replica.events import SyncReport
from synchrotron.replica.exchange import (
    Next,
    Taken,
    Taking,
    ask,
    ask_ahead,
    ask_snapshot,
    is_answer_to,
    is_mended,
    refusal_text,
    settle_tokens,
    skew,
    supersede,
)
from synchrotron.replica.floors import prune, rebase
from synchrotron.replica.outcomes import Outcome, SetAside, outcome_of
from synchrotron.replica.reversing import reversing_of
from synchrotron.replica.revision import FloorClash, Revised, Revision
from synchrotron.replica.runner import PointsNowhere, Runner
from synchrotron.replica.staging import Staging
from synchrotron.replica.strict import StrictRunner
from synchrotron.store.capture import Change
from synchrotron.store.database import MACHINE, machine_errors
from synchrotron.store.state import Stamps, State, read_stamp
from synchrotron.store.store import Store

Request = TypeVar("Request", SyncRequest, SnapshotRequest)


RUNS_PER_FLUSH = 200
"""After a burst of runs a request then waits for the disk no longer than for these."""


class Ran(msgspec.Struct):
    """A first run."""

    record: ActionRecord
    result: Any
    changes: list[Change]


class Engine:
    """One replica's transactions. `clock` gives milliseconds, `entropy(n)` n random bytes."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        entropy: Entropy,
        *,
        replay_all: bool = False,
    ) -> None:
        self.store = store
        self.lock = threading.RLock()
        self._runner = self._first_runner = Runner(store, replay_all=replay_all)
        self._stamps = Stamps(store.writer)
        self._clock = clock
        self._entropy = entropy
        self._staging: Staging | None = None
        self._asked = ("", 0)
        """The newest request's token, and when it was made."""

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        with self.lock, machine_errors("writing", (*MACHINE, apsw.Error)):
            self.check_outside_actions()
            with self.store.database.transaction(durable=durable):
                yield

    def check_outside_actions(self) -> None:
        """Raises `UsageError`: an action is one transaction, of nothing but its own rows."""
        if not self.lock.acquire(blocking=False):
            return  # if there is an action, it is another thread's
        try:
            if self.store.in_action:
                raise UsageError(
                    "an action reads and writes rows, by ctx.execute, and can do nothing else with "
                    "its replica: sync it, undo, retry, discard, prune and close it after the run"
                )
        finally:
            self.lock.release()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self.lock, machine_errors("reading"):
            yield

    @contextmanager
    def _changing_state(self, *, durable: bool = False) -> Iterator[State]:
        with self._transaction(durable=durable):
            state = self.store.read_state()
            self._check_migrations(state.migrations)
            yield state
            self.store.write_state(state)

    def _check_migrations(self, seen: int) -> None:
        """What we would write is of another schema, if a newer version has migrated the file."""
        known = len(self.store.definition.migrations)
        if seen != known:
            raise NewerFile(
                f"{self.store.database.path} was migrated by a newer version meanwhile (it has "
                f"seen {seen} migrations, this version {known}): close it, and upgrade"
            )

    def state(self) -> State:
        with self._reading():
            return self.store.read_state()

    def claim(self, user: str | None) -> None:
        """Whose file it is: from the first user on, for all its life. Raises `WrongUser`."""
        owner = self.state().user
        if user and not owner:
            with self._changing_state() as state:
                owner = state.user = state.user or user
        if user and owner != user:
            raise WrongUser(
                f"{self.store.database.path} belongs to user {owner!r}, not {user!r}: "
                "open another file for this user"
            )

    def _machine_ms(self) -> int:
        return int(self._clock())  # a clock may give fractions

    def _now_ms(self, state: State) -> int:
        return self._machine_ms() + state.clock_offset_ms

    # ---- running actions (A1) -------------------------------------------------------

    def be_strict(self) -> None:
        """From here on each first run is judged: see `StrictRunner`."""
        strict = StrictRunner(self.store)
        with self.lock, machine_errors("reading the log", (*MACHINE, apsw.Error)):
            strict.warn_of_changed_actions()
        self._first_runner = strict

    def run(self, action: Action[Any, Any], arguments: Arguments) -> Ran:
        """Run an action for the first time, record it and capture its effects."""
        with self.lock:
            if self.store.in_action:
                raise UsageError(
                    f"replica.run({action.name}) inside an action: call {action.name}(ctx, …) "
                    "instead, and it becomes part of the action"
                )
            with self.store.database.transaction():
                n, at, record = self._stamp(action, arguments)
                result, changes = self._first_runner.run(action, record, arguments)
                rests_on = self._first_runner.rested_on
                self.store.log.add_run(n, record, changes, rests_on)
            self._stamps.committed(n, at)
        if n % RUNS_PER_FLUSH == 0:
            self.store.database.flush_soon()
        return Ran(record, result, changes)

    def rehearse(self, action: Action[Any, Any], arguments: Arguments) -> ActionRecord:
        """The record that a run would have now; nothing is stored."""
        with self._transaction():
            return self._stamp(action, arguments)[2]

    def _stamp(
        self, action: Action[Any, Any], arguments: Arguments
    ) -> tuple[int, Timestamp, ActionRecord]:
        stamp = self._stamps.latest()
        self._check_migrations(stamp.migrations)
        if not stamp.user:
            raise UsageError(
                "whose action is this? Open the replica with user=…, or with a token; one that a "
                "function gives is known after the first sync"
            )
        now_ms = self._machine_ms() + stamp.clock_offset_ms
        n, at = stamp.n + 1, tick(now_ms, stamp.latest)
        return (
            n,
            at,
            ActionRecord(
                id=action_id(stamp.client_id, n),
                seed=new_seed(self._entropy),
                name=action.name,
                version=action.version,
                args=arguments.json,
                now=to_datetime(now_ms),
                order_key=order_key(at, stamp.client_id),
                client_id=stamp.client_id,
                user=stamp.user,
                audiences=action.audiences(arguments),
            ),
        )

    def undo(self, id: str) -> Ran:
        """Reverse an action by one of our own. Raises `UnknownOutcome`, `CannotUndo`."""
        left: dict[RowKey, str] = {}
        with self._reading():
            self.check_outside_actions()
            while True:
                reversing = reversing_of(self.store, ActionId(id), left.keys())
                try:
                    ran = self.run(self.store.definition.undo, reversing)
                except PointsNowhere as error:
                    pointing = {missing.child: str(missing) for missing in error.missing}
                    if not pointing.keys() - left.keys():
                        raise
                    left |= pointing
                else:
                    done, others = ran.result
                    ran.result = Undone(done, {**left, **others})
                    return ran

    # ---- exchanges ------------------------------------------------------------------

    def ask(self, *, upload: bool = True) -> SyncRequest:
        """The next request; it is on the disk when this returns (O6, O7)."""
        return self._asking(lambda state: ask(self.store, state, self._entropy, upload=upload))

    def ask_ahead(self, download: Download) -> SyncRequest:
        """The request for the next page, while this one is still to be taken in."""
        return self._asking(lambda state: ask_ahead(state, self._entropy, download))

    def _asking(self, make: Callable[[State], Request]) -> Request:
        """Make a request in a durable transaction, and note when (O4)."""
        with self._changing_state(durable=True) as state:
            request = make(state)
            self._asked = (request.exchange.token, self._machine_ms())
            return request

    def take(self, request: SyncRequest, answer: SyncAnswer) -> Taken:
        """Take an answer in, or leave everything as it is (S1)."""
        try:
            with self._changing_state() as state:
                skew_ms = self._compare_clocks(state, request.exchange, answer.now_ms)
                taking = Taking(self.store, self._runner, state, self._now_ms(state), self._entropy)
                taken = taking.take(request, answer)
                taken.report.skew_ms = skew_ms
                return taken
        except FloorClash:
            return nothing_taken(Next(again=True, rebase=True))

    def _compare_clocks(self, state: State, exchange: Exchange, server_ms: int) -> int:
        """How far the machine's clock is behind the server's, which may be less than nothing (O4).

        An answer to another request than the newest tells no time: it may be an old one.
        """
        token, asked_ms = self._asked
        if exchange.token != token:
            return 0
        skew_ms = skew(asked_ms, server_ms, self._machine_ms())
        if state.clock_offset_ms and is_mended(skew_ms, state.clock_offset_ms):
            state.clock_offset_ms = 0
        return skew_ms

    def ask_snapshot(self, *, new_epoch: bool = False) -> SnapshotRequest:
        resume = self._staging.resume if self._staging else None
        return self._asking(
            lambda state: ask_snapshot(
                self.store, state, self._entropy, new_epoch=new_epoch, resume=resume
            )
        )

    def take_snapshot(
        self, request: SnapshotRequest, chunks: Iterable[SnapshotChunk], *, new_epoch: bool = False
    ) -> Taken:
        """Stage a snapshot's chunks as they come, then start anew from it (F4).

        What came of one that breaks off is kept, to be resumed by the next request.
        """
        staging = self._staging = self._staging or Staging(self.store)
        for chunk in chunks:
            if isinstance(chunk, Duplicate | Superseded | Install | Limit):
                return self._no_snapshot(request, chunk, new_epoch)
            if (
                isinstance(chunk, SnapshotHead)
                and chunk.resumed
                and request.resume != staging.resume
            ):
                # Another answer was faster: what this one goes on from is not there any more.
                return nothing_taken(Next(again=True, rebase=True, new_epoch=new_epoch))
            with self.lock:
                if staging.take(chunk):
                    taken = self._start_from(request, staging, new_epoch)
                    # Else a copy of all rows would stay as long as the connection.
                    staging.close()
                    self._staging = None
                    return taken
        raise ProtocolError("the snapshot ended before its end")

    def _start_from(self, request: SnapshotRequest, staging: Staging, new_epoch: bool) -> Taken:
        with self._changing_state() as state:
            if not is_answer_to(state, request.exchange):
                return nothing_taken(Next(again=True))
            if state.tokens[-1] != request.exchange.token:
                # What was sent since may be stored by now, under a key below this floor (F4).
                return nothing_taken(Next(again=True, rebase=True, new_epoch=new_epoch))
            assert staging.head is not None
            settle_tokens(state, request.exchange, staging.head)
            skew_ms = self._compare_clocks(state, request.exchange, staging.head.now_ms)
            now_ms = self._now_ms(state)
            revised = rebase(self.store, self._runner, state, staging, now_ms, new_epoch=new_epoch)
        report = SyncReport(rounds=1, rebased=1, skew_ms=skew_ms)
        return _taken(Next(again=True), revised, report)

    def _no_snapshot(
        self,
        request: SnapshotRequest,
        answer: Duplicate | Superseded | Install | Limit,
        new_epoch: bool,
    ) -> Taken:
        with self._changing_state() as state:
            if not is_answer_to(state, request.exchange):
                return nothing_taken(Next(again=True))
            settle_tokens(state, request.exchange, answer)
            again = Next(again=True, rebase=True, new_epoch=new_epoch)
            if isinstance(answer, Superseded):
                revision = Revision(self.store, self._runner, state)
                supersede(revision, answer, self._entropy)
                return _taken(again, revision.carry_out(), SyncReport(rounds=1))
            if isinstance(answer, Duplicate):
                return nothing_taken(again)
            return nothing_taken(Next(blocked=refusal_text(answer, state)))

    # ---- outcomes -------------------------------------------------------------------

    def outcome(self, asked: str) -> Outcome:
        """What became of an own action. Raises `UnknownOutcome`."""
        with self._reading():
            state = self.store.read_state()
            set_aside = SetAside(self.store.writer)
            id = set_aside.present_id(ActionId(asked))
            entry = self.store.log.own_action(id)
            if entry is not None:
                return outcome_of(entry, state.server_floor)
            found = set_aside.get(id, state.server_floor)
            if found is None:
                raise UnknownOutcome(f"{asked} is not an action that was run on this replica")
            return found[1]

    def outcomes(self) -> list[Outcome]:
        """The outcomes of all own actions, in the order of their runs."""
        with self._reading():
            floor = self.store.read_state().server_floor
            found = [(entry.record, outcome_of(entry, floor)) for entry in self.store.log.own()]
            found += SetAside(self.store.writer).all(floor)
        return [outcome for _, outcome in sorted(found, key=lambda f: (f[0].now, f[0].order_key))]

    def retry(self, id: str) -> tuple[ActionId, Revised]:
        """Bring a parked action back into history."""
        with self._changing_state() as state:
            revision = Revision(self.store, self._runner, state)
            record, _ = _parked(revision.set_aside, id)
            revision.set_aside.take(record.id)
            again = self._again(revision, record)
            revision.add(again, None, own=True)
            return again.id, revision.carry_out()

    def _again(self, revision: Revision, record: ActionRecord) -> ActionRecord:
        """A retry keeps its id, and its order key while that is above both floors."""
        state = revision.state
        if record.client_id != state.client_id:
            new_id = action_id(state.client_id, revision.next_n())
            revision.set_aside.rename(record.id, new_id)
            record = record.renewed(new_id)
        if record.order_key > max(state.floor or FIRST, state.server_floor or FIRST):
            return record
        at = tick(self._now_ms(state), read_stamp(self.store.writer).latest)
        return record.moved(order_key(at, record.client_id))

    def discard(self, id: str) -> Outcome:
        with self._transaction():
            set_aside = SetAside(self.store.writer)
            record, outcome = _parked(set_aside, id)
            discarded = msgspec.structs.replace(outcome, state="discarded")
            set_aside.put(record, discarded)
            return discarded

    # ---- history --------------------------------------------------------------------

    def records(self) -> list[ActionRecord]:
        with self._reading():
            return [entry.record for entry in self.store.log.all()]

    def prune(self, keep: int) -> int:
        with self._changing_state() as state:
            return prune(self.store, state, keep)

    def commits_elsewhere(self) -> int | None:
        """A number that is another one after a commit by another process.

        Never waits: None as long as another thread is writing, and after the end.
        """
        if not self.lock.acquire(blocking=False):
            return None
        try:
            return self.store.database.commits_elsewhere()
        except apsw.ConnectionClosedError:
            return None
        finally:
            self.lock.release()

    def has_something_to_send(self) -> bool:
        with self._reading():
            return self.store.log.has_something_to_send()

    def close(self) -> None:
        with self.lock:
            if self._staging is not None:
                self._staging.close()
            self.store.close()


class Elsewhere:
    """Looks whether another process has committed since the last look; so it has at first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: int | None = None

    def has_committed(self) -> bool:
        number = self._engine.commits_elsewhere()
        if number is None or number == self._seen:
            return False
        self._seen = number
        return True

    def has_run(self) -> bool:
        """Whether it also left something to send."""
        return self.has_committed() and self._engine.has_something_to_send()


def nothing_taken(next: Next) -> Taken:
    return Taken(next, SyncReport(), [], set(), [])


def _taken(next: Next, revised: Revised, report: SyncReport) -> Taken:
    report.replayed += revised.replayed
    report.count(outcome.state for outcome in revised.outcomes)
    return Taken(next, report, revised.outcomes, revised.tables, revised.left_out)


def _parked(set_aside: SetAside, id: str) -> tuple[ActionRecord, Outcome]:
    found = set_aside.get(set_aside.present_id(ActionId(id)), None)
    if found is None or found[1].state != "parked":
        raise UsageError(f"{id} is not parked: only a parked action can be retried or discarded")
    return found

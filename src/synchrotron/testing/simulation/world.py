"""The world of one history: devices, their server, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from synchrotron.application import App
from synchrotron.core.messages import (
    SnapshotChunk,
    SnapshotRequest,
    SyncAnswer,
    SyncRequest,
    encode,
)
from synchrotron.errors import MachineError, RefusedInAction, UnknownOutcome, UsageError
from synchrotron.replica.events import SyncReport
from synchrotron.replica.exchange import Next, Taken
from synchrotron.store.database import MEMORY
from synchrotron.testing.memory_server import MemoryServer
from synchrotron.testing.rights import Policy
from synchrotron.testing.simulation.audit import Audit, Kept
from synchrotron.testing.simulation.checks import Checks
from synchrotron.testing.simulation.climate import Climate
from synchrotron.testing.simulation.device import Copy, Device
from synchrotron.testing.simulation.dice import Dice
from synchrotron.testing.simulation.network import Network
from synchrotron.testing.simulation.sampling import Query, draw_sample
from synchrotron.testing.simulation.session import Session
from synchrotron.testing.simulation.steps import START_MS, Step
from synchrotron.testing.simulation.story import Story
from synchrotron.testing.simulation.violation import Violation

SKEWS_MS = (0, 0, 3, -3, 40, -40, 900, -900, 5_000, -20_000, 90_000, -90_000, 3_600_000, 150_000)
KINDS = ("phone", "laptop", "tablet", "desktop", "watch", "spare")
ROUNDS_MAX = 120
"""More than a lease lasts, at the longest wait between two requests."""
MORE_DEVICES_MAX = 3
UNDONE_OF_LATEST = 8


@dataclass(frozen=True)
class Cast:
    """Who and what takes part in a history."""

    app: App
    users: tuple[str, ...]
    replicas: int
    older: Sequence[App] = ()
    """Versions of the application with less code, or an older schema."""
    sets: Mapping[str, set[str]] | None = None
    """Given memberships."""
    churn: bool = False
    """Whether the given memberships change."""
    policy: Policy | None = None
    relaxes: bool = False
    """Whether the policy is lifted and put back in the course of the history."""
    invariants: Sequence[str] = ()
    make_server: Callable[..., MemoryServer] = MemoryServer
    """Makes the server as `MemoryServer` is made; another may be compared with it."""


class Tally(NamedTuple):
    """How often an action was run, and what came of it at first."""

    runs: int = 0
    effects: int = 0
    raised: int = 0


@dataclass
class World:
    """One history as it runs."""

    cast: Cast
    climate: Climate
    seed: object
    folder: Path
    replay_all: bool = False
    """Whether replicas leave nothing in place when history changes (S12)."""
    is_compared: bool = False
    """Whether it is played both ways: then what replicas hold is part of the digest."""
    story: Story = field(default_factory=Story)
    report: SyncReport = field(default_factory=SyncReport)
    actions: dict[str, Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cast, climate = self.cast, self.climate
        self.network = Network(START_MS)
        self.post = self.network.post
        self._dice = Dice(self.seed, "world")
        self._sets = None if cast.sets is None else {u: set(s) for u, s in cast.sets.items()}
        self.server = cast.make_server(
            cast.app,
            self._sets,
            clock=self.network.clock,
            max_backdate_ms=climate.max_backdate_ms,
            page_events=climate.page_events,
            entropy=self._entropy,
        )
        self._is_strict = True
        self.server.policy = None if cast.policy is None else self._policy
        sets = None if self._sets is None else self.server.audiences
        self.audit = Audit(cast.app, self.server, cast.users, sets, cast.invariants)
        self.checks = Checks(self.audit, cast.invariants)
        self.devices: list[Device] = []
        self.restored: set[str] = set()
        """Devices whose files were put back or copied: they may be superseded (O6)."""
        self._kept: list[Kept] = []
        self._forgiven: set[str] = set()
        """The seeds of runs that the server may have lost: it was put back (H11)."""
        self._was_put_back = False
        self._forgot_while_code_lacked = False
        """Others may have come too late to correct what someone without the code did (S10)."""
        self._steps: dict[str, Callable[[Device, Dice], None]] = {
            "act": self._act,
            "sync": self._sync,
            "decide": self._decide_somewhere,
            "join": self._join,
            "prune": self._prune,
            "prune server": self._prune_server,
            "clock": self._set_clock,
            "back up server": self._back_up_server,
            "restore server": self._restore_server,
            "membership": self._change_membership,
            "rights": self._change_rights,
            "crash": self._crash,
            "power cut": self._cut_power,
            "interrupt": self._interrupt,
            "copy": self._copy,
            "restore": self._restore,
            "clone": self._clone,
            "upgrade": self._upgrade,
        }

    # ---- what sessions and devices need --------------------------------------------

    def tell(self, text: str, fault: str | None = None, *, aside: bool = False) -> None:
        self.story.tell(self.network.now_ms, text, fault, aside=aside)

    def throw(self, dice: Dice) -> None:
        self._dice = dice

    def _entropy(self, n: int) -> bytes:
        return self._dice.randbytes(n)

    def asked(self, device: Device, request: SyncRequest | SnapshotRequest) -> None:
        self.story.saw(f"what {device.name} asks", encode(request))
        if isinstance(request, SyncRequest):
            for sent in request.actions:
                copied = device.name in self.restored
                self.checks.sent(device, sent.record.id, sent.record.seed, copied=copied)

    def serve(self, device: Device, request: SyncRequest) -> SyncAnswer:
        answer = device.connection.exchange(request)
        self.story.saw(f"what {device.name} is answered", encode(answer))
        self.audit.exchanged(device.user, request, answer)
        return answer

    def serve_snapshot(self, device: Device, wish: SnapshotRequest) -> list[SnapshotChunk]:
        chunks = list(device.connection.snapshot(wish))
        for chunk in chunks:
            self.story.saw(f"the snapshot for {device.name}", encode(chunk))
        self.audit.snapshot(device.user, chunks)
        return chunks

    def taken(self, device: Device, taken: Taken, *, new_epoch: bool = False) -> None:
        self.report.add(taken.report)
        left = device.leaves()
        if self._was_put_back and (left or (taken.report.rebased and not new_epoch)):
            # Below what was pruned, a replica cannot tell that history is another; and what it
            # did in an audience that it left meanwhile, it cannot bring back (H11).
            self._forgive_all_but(device, device.in_log())
        if taken.report.replayed:
            text = f"  {device.name} rolls back and replays {taken.report.replayed} actions"
            self.story.tell(self.network.now_ms, text, aside=True)
        for outcome in taken.outcomes:
            why = f" ({outcome.reason or outcome.detail})" if outcome.state != "accepted" else ""
            self.tell(f"  {outcome.id[-8:]} is {outcome.state}{why}")
        if self.is_compared:
            self.story.saw(f"what {device.name} holds", device.holds())
        self.checks.knows(device)
        self.checks.holds(device, put_back=self._was_put_back)
        if not self._was_put_back:
            self.checks.believes(device)

    def befall(self, device: Device, dice: Dice) -> bool:
        if not (device.on_file and dice.chance(self.climate.crash)):
            return False
        self._crash(device, dice) if dice.chance(0.5) else self._cut_power(device, dice)
        return True

    def meanwhile(self, device: Device, dice: Dice) -> None:
        if dice.chance(self.climate.meanwhile):
            dice.choice((self._act, self._prune, self._decide, self._decide))(device, dice)

    # ---- the course of a history ---------------------------------------------------

    def open(self) -> None:
        """Put the first devices in place."""
        for _ in range(self.cast.replicas):
            self._add_device(Dice(self.seed, "device", len(self.devices)))

    def _add_device(self, dice: Dice) -> Device:
        number = len(self.devices)
        user = self.cast.users[number % len(self.cast.users)]
        older = self.cast.older and number > 0 and dice.chance(self.climate.older)
        app = dice.choice(self.cast.older) if older else self.cast.app
        device = self._make_device(user, app)
        if app is not self.cast.app:
            self.audit.at_every_commit = self.audit.all_have_code = False
        device.skew_ms = dice.choice(SKEWS_MS[:8])
        self.throw(dice)
        device.start()
        kind = "older code" if app is not self.cast.app else None
        if app.migrations != self.cast.app.migrations:
            kind = "older schema"
        self.tell(f"{device.name} starts{f' with {kind}' if kind else ''}", kind)
        return device

    def _make_device(self, user: str, app: App) -> Device:
        number = len(self.devices)
        same = sum(device.user == user for device in self.devices)
        name = f"{user}'s {KINDS[same] if same < len(KINDS) else f'device {same + 1}'}"
        path = str(self.folder / f"{number}.db") if self.climate.files else MEMORY
        connection = self.server.connect(user)
        clock, entropy = self.network.clock, self._entropy
        device = Device(name, user, app, path, connection, clock, entropy, self.replay_all)
        self.devices.append(device)
        return device

    def step(self, step: Step) -> None:
        """Let time pass to the step's moment, and do it."""
        self.network.run_until(step.at_ms)
        self.story.begin(step)
        dice = Dice(self.seed, "step", step.number)
        self.throw(dice)
        self._steps[step.kind](self.devices[step.who % len(self.devices)], dice)

    def close(self) -> None:
        for device in self.devices:
            device.replica.close()
        self.audit.close()

    # ---- ordinary steps ------------------------------------------------------------

    def _act(self, device: Device, dice: Dice) -> None:
        if self.climate.undo and dice.chance(self.climate.undo):
            self._undo(device, dice)
            return
        query = Query(device.query, device.user, self.cast.users)
        sample = draw_sample(dice, device.app, query)
        if sample is None:
            return
        action, args = sample
        shown = ", ".join(f"{name}={value!r}" for name, value in args.items())
        before = self.actions.get(action.name, Tally())
        runs, effects, raised = before
        try:
            ran = device.engine.run(action, action.bind((), dict(args)))
        except MachineError:
            raise
        except Exception as error:
            kind = type(error).__name__
            self.tell(f"{device.name} runs {action.name}({shown}): {kind}, nothing happens")
            self.actions[action.name] = Tally(runs + 1, effects, raised + 1)
            return
        self.actions[action.name] = Tally(runs + 1, effects + bool(ran.changes), raised)
        idle = "" if ran.changes else ", without effect here"
        self.tell(f"{device.name} runs {action.name}({shown}) as {ran.record.id[-8:]}{idle}")
        device.runs[ran.record.id] = ran.record.seed
        self.checks.ran(device, ran)
        self.befall(device, dice)

    def _undo(self, device: Device, dice: Dice) -> None:
        """A user undoes one of the latest actions that the replica has, whoever ran it."""
        records = device.engine.records()[-UNDONE_OF_LATEST:]
        if not records:
            return
        undone = dice.choice(records)
        try:
            ran = device.engine.undo(undone.id)
        except (UsageError, RefusedInAction) as error:
            self.tell(f"{device.name} cannot undo {undone.id[-8:]}: {type(error).__name__}")
            return
        self.tell(f"{device.name} undoes {undone.name} {undone.id[-8:]}", "undo")
        device.runs[ran.record.id] = ran.record.seed
        self.checks.ran(device, ran)
        self.befall(device, dice)

    def _sync(self, device: Device, dice: Dice) -> None:
        Session(self, device, dice).begin()

    def _decide_somewhere(self, device: Device, dice: Dice) -> None:
        having = [d for d in self.devices if d.parked()]
        self._decide(dice.choice(having) if having else device, dice)

    def _decide(self, device: Device, dice: Dice) -> None:
        """A user retries or discards what is parked, mostly what they are working on."""
        parked = device.parked()
        if not parked:
            return
        record = dice.choice(parked)
        if dice.chance(0.8):
            record = max(parked, key=device.likeness)
        if dice.chance(0.75):
            device.engine.retry(record.id)
            self.tell(f"{device.name} retries {record.id[-8:]}")
            self.checks.knows(device)
        else:
            device.engine.discard(record.id)
            self.tell(f"{device.name} discards {record.id[-8:]}")

    # ---- trouble for all -----------------------------------------------------------

    def _join(self, _: Device, dice: Dice) -> None:
        if len(self.devices) < self.cast.replicas + MORE_DEVICES_MAX:
            device = self._add_device(dice)
            self.tell(f"  {device.name} is new", "new replica")

    def _prune(self, device: Device, dice: Dice) -> None:
        pruned = device.engine.prune(dice.randrange(5))
        if pruned:
            self.tell(f"{device.name} forgets {pruned} actions", "replica pruned")

    def _prune_server(self, _: Device, dice: Dice) -> None:
        pruned = self.server.prune(dice.randrange(10))
        if pruned:
            self.audit.at_every_commit = False
            self._forgot_while_code_lacked |= not self.audit.all_have_code
            if not self.audit.all_declared:
                self.audit.is_serial = False
            self.tell(f"the server forgets {pruned} actions", "server pruned")

    def _set_clock(self, device: Device, dice: Dice) -> None:
        device.skew_ms = dice.choice(SKEWS_MS)
        self.tell(f"the clock of {device.name} is off by {device.skew_ms} ms", "clock jump")

    def _back_up_server(self, _: Device, dice: Dice) -> None:
        self._kept.append(self.audit.back_up())
        self.tell("the server is backed up")

    def _restore_server(self, _: Device, dice: Dice) -> None:
        if self._kept:
            self.audit.restore(dice.choice(self._kept))
            self._was_put_back = True
            for device in self.devices:
                self._forgive_all_but(device, device.remembered())
            self.tell("the server is put back to a backup", "server restored")

    def _forgive_all_but(self, device: Device, kept: set[str]) -> None:
        """What a put back server lost comes back from its authors' files, and no more."""
        self._forgiven.update(seed for seed in device.runs.values() if seed not in kept)

    def _change_membership(self, _: Device, dice: Dice) -> None:
        sets = self.server.audiences
        user = dice.choice(self.cast.users)
        audience = dice.choice(sorted({a for s in (self.cast.sets or {}).values() for a in s}))
        sets[user] ^= {audience}
        self.audit.is_serial = False
        joins = "joins" if audience in sets[user] else "leaves"
        self.tell(f"{user} {joins} {audience}", "membership")

    def _policy(self, user: str, op: str, table: str, row: Mapping[str, Any]) -> bool:
        policy = self.cast.policy
        return not self._is_strict or policy is None or policy(user, op, table, row)

    def _change_rights(self, _: Device, dice: Dice) -> None:
        self._is_strict = not self._is_strict
        self.tell(f"the policy is {'put back' if self._is_strict else 'lifted'}", "rights")
        if not self._is_strict:
            for device in [d for d in self.devices if d.parked()]:
                self._try_again(device, dice)

    def _try_again(self, device: Device, dice: Dice) -> None:
        """A user goes on, and decides of what was parked while that is on its way."""
        for _ in range(3):
            self._act(device, dice)
        self._sync(device, dice)
        self._decide(device, dice)

    # ---- trouble for one file ------------------------------------------------------

    def _crash(self, device: Device, dice: Dice) -> None:
        if device.on_file:
            device.kill()
            device.start()
            self.tell(f"{device.name} crashes, and starts again", "crash")

    def _cut_power(self, device: Device, dice: Dice) -> None:
        if not device.on_file:
            return
        gone = device.cut_power(dice.choice)
        device.start()
        self.tell(f"{device.name} loses power, and its last {gone} commits", "power cut")
        self._forget_unsent(device)
        self.checks.knows(device)

    def _forget_unsent(self, device: Device) -> None:
        """What was never sent may be gone after a power cut; what was sent must not be."""
        for id, seed in list(device.runs.items()):
            try:
                device.engine.outcome(id)
            except UnknownOutcome:
                if self.checks.was_sent(device, seed):
                    raise Violation(
                        "O7", f"{device.name} sent {id}, and has lost it in a power cut"
                    ) from None
                del device.runs[id]

    def _interrupt(self, device: Device, dice: Dice) -> None:
        """The machine fails while an answer is taken in: all is left as it was (S1)."""
        engine = device.engine
        if not device.on_file or not engine.state().bootstrapped:
            return
        request = engine.ask()
        self.asked(device, request)
        answer = self.serve(device, request)
        before = device.content()
        fails = iter((True,))  # once: rolling back works
        device.writer.set_progress_handler(
            lambda: next(fails, False), dice.choice((20, 100, 400, 1600))
        )
        try:
            taken = engine.take(request, answer)
        except MachineError:
            device.writer.set_progress_handler(None)
            # When it happens is counted in SQLite's own steps, of which some ways take more.
            self.tell(f"{device.name} fails while it takes an answer in", "interrupted", aside=True)
            if device.content() != before:
                raise Violation("S1", f"{device.name} took a part of an answer in") from None
            taken = engine.take(request, answer)
        finally:
            device.writer.set_progress_handler(None)
        self.tell(f"{device.name} has the answer to request {request.exchange.number}")
        self.taken(device, taken)

    def _copy(self, device: Device, dice: Dice) -> None:
        if device.on_file:
            device.copies.append(device.copy())
            self.tell(f"the file of {device.name} is copied away")

    def _restore(self, device: Device, dice: Dice) -> None:
        if device.copies:
            copy = dice.choice(device.copies)
            device.kill()
            device.put_back(copy)
            self.restored.add(device.name)
            device.start()
            self.tell(f"the file of {device.name} is put back to a copy", "file restored")
            self.checks.knows(device)

    def _clone(self, device: Device, dice: Dice) -> None:
        if device.on_file and len(self.devices) < self.cast.replicas + MORE_DEVICES_MAX:
            copy: Copy = device.copy()
            twin = self._make_device(device.user, device.app)
            twin.put_back(copy)
            self.restored |= {device.name, twin.name}
            twin.start()
            self.tell(f"{twin.name} starts on a copy of the file of {device.name}", "file copied")
            self.checks.knows(twin)

    def _upgrade(self, device: Device, dice: Dice) -> None:
        if device.on_file and device.app is not self.cast.app:
            device.kill()
            device.app = self.cast.app
            device.start()
            self.tell(f"{device.name} is upgraded", "upgrade")

    # ---- the end -------------------------------------------------------------------

    def settle(self) -> None:
        """Faults end; what is on its way arrives; all sync until nothing changes any more."""
        self.story.begin(None)
        self.throw(Dice(self.seed, "end"))
        self.climate = Climate()
        self.network.run_all()
        self.tell("from here on nothing goes wrong, and all sync")
        for device in self.devices:
            device.skew_ms = 0
        seen: dict[str, int] = {}
        for _ in range(ROUNDS_MAX):
            late = [d for d in self.devices if seen.get(d.name) != self.server._state.seq]
            if not late:
                return
            for device in late:
                self._rest(device)
                seen[device.name] = self.server._state.seq
        raise Violation("S4", "replicas go on correcting each other for ever")

    def _rest(self, device: Device) -> None:
        """Exchange until in step, as `Replica.sync` does."""
        engine = device.engine
        next = Next(again=True, rebase=not engine.state().bootstrapped)
        for _ in range(ROUNDS_MAX):
            if next.rebase:
                wish = engine.ask_snapshot(new_epoch=next.new_epoch)
                self.asked(device, wish)
                chunks = self.serve_snapshot(device, wish)
                taken = engine.take_snapshot(wish, chunks, new_epoch=next.new_epoch)
            else:
                request = engine.ask(upload=next.upload)
                self.asked(device, request)
                taken = engine.take(request, self.serve(device, request))
            self.tell(f"{device.name} syncs")
            self.taken(device, taken, new_epoch=next.new_epoch)
            next = taken.next
            if not next.again and next.wait_ms is None:
                if next.blocked:
                    raise Violation("drained", f"{device.name} is blocked: {next.blocked}")
                return
            self.network.run_until(self.network.now_ms + (next.wait_ms or 1))
        raise Violation("S4", f"{device.name} does not come to rest: {next}")

    def check(self) -> None:
        """All that must hold once all have synced."""
        audit = self.audit
        if audit.is_serial and self._someone_has_all():
            audit.check_serial("in the end")
        else:
            audit.is_serial = False
        tables = audit.tables()
        for device in self.devices:
            self.checks.converged(device, tables)
            copied = device.name in self.restored
            self.checks.outcomes(device, copied=copied, forgiven=self._forgiven)

    def _someone_has_all(self) -> bool:
        """Whether nobody lacks code, or someone with all of it has all of history (S10)."""
        full = [device for device in self.devices if device.app is self.cast.app]
        whole = full == self.devices and not self._forgot_while_code_lacked
        return whole or any(d.engine.state().floor is None for d in full)


def narrowed(app: App, names: frozenset[str]) -> App:
    """The application as it was before it had these actions (S10)."""
    older = App.__new__(App)
    older.__dict__.update(app.__dict__)
    older.actions = {key: a for key, a in app.actions.items() if a.name not in names}
    return older

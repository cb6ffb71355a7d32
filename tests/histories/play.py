"""Random histories: replicas, a server in memory, a network that loses and repeats.

    python play.py --setting views --seeds 0:300
    python play.py --setting all --seeds 0:1000     # each in a process of its own

A history is a list of steps, each a tuple of small numbers, so that hypothesis can make
and shrink them. `play` raises `Failed` where an oracle is violated: serial equivalence
(S7), convergence (S8), termination (S4), an accepted action lost, a row received that the
user may not see (S6, H7), a queue that does not empty.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ledger import make_app

from synchrotron import App, Replica, SyncReport
from synchrotron.core.messages import SyncAnswer, SyncRequest
from synchrotron.errors import SynchrotronError
from synchrotron.replica.exchange import Next
from synchrotron.testing.memory_server import MemoryServer
from synchrotron.testing.oracle import serial_tables, tables_of

Step = tuple[int, int, int, int]
USERS = ("ann", "bob", "cyd")
ROOMS = ("red", "blue")
ITEMS = ("i0", "i1", "i2")
ROUNDS_MAX = 40


class Failed(AssertionError):
    """An oracle is violated."""


@dataclass(frozen=True)
class Setting:
    """What may happen in a history."""

    private: bool = False
    """Rows that only their owner sees."""
    readonly: bool = False
    """The last user may not write shared rows."""
    churn: bool = False
    """Users join and leave rooms."""
    opaque: bool = False
    """The second replica lacks the code of some actions."""
    prune: bool = False
    restored: bool = False
    """Files are put back to an older copy."""

    @property
    def serial(self) -> bool:
        """Whether everyone sees everything, and may write it."""
        return not (self.private or self.readonly or self.churn)

    @property
    def always_serial(self) -> bool:
        return self.serial and not self.opaque and not self.prune


SETTINGS = {
    "plain": Setting(),
    "pruned": Setting(prune=True),
    "restored": Setting(restored=True),
    "opaque": Setting(opaque=True),
    "readonly": Setting(readonly=True),
    "views": Setting(private=True, readonly=True),
    "churn": Setting(private=True, churn=True, prune=True),
}


@dataclass
class Peer:
    """A replica and what is on its way."""

    user: str
    app: App
    path: str
    clock: Callable[[], int]
    replica: Replica = field(init=False)
    next: Next = field(init=False)
    asked: list[SyncRequest] = field(default_factory=list)
    answered: list[tuple[SyncRequest, SyncAnswer]] = field(default_factory=list)
    copied: bool = False


class World:
    """One history as it runs."""

    def __init__(
        self,
        setting: Setting,
        make: Callable[..., MemoryServer] = MemoryServer,
        *,
        trace: bool = False,
    ) -> None:
        self.setting = setting
        self.trace = trace
        self.now_ms = 1_000_000
        self.dice = random.Random(7)
        self.app = make_app()
        self.old_app = make_app(without=frozenset({"take", "add"}))
        rooms = {f"room:{room}" for room in ROOMS}
        self.sets = {
            user: {*rooms, *({f"user:{user}"} if setting.private else set())} for user in USERS
        }
        self.server = make(self.app, self.sets, clock=self.clock, entropy=self.dice.randbytes)
        self.server.policy = self.may_write
        self.peers: list[Peer] = []
        self.made: dict[str, Peer] = {}
        self.report = SyncReport()
        self.restored = False
        self.folder = tempfile.TemporaryDirectory()
        for user in USERS:
            self.join(user, old=setting.opaque and user == USERS[1])

    def clock(self) -> int:
        return self.now_ms

    def may_write(self, user: str, op: str, table: str, row: dict[str, Any]) -> bool:
        return not (self.setting.readonly and user == USERS[2] and table != "note")

    def join(self, user: str, *, old: bool = False) -> None:
        app = self.old_app if old else self.app
        skew_ms = (0, 3, -40, 60)[len(self.peers) % 4]
        path = f"{self.folder.name}/{len(self.peers)}.db" if self.setting.restored else ":memory:"
        peer = Peer(user, app, path, lambda: self.now_ms + skew_ms)
        self.open(peer)
        self.peers.append(peer)

    def open(self, peer: Peer) -> None:
        peer.replica = peer.app.open(
            peer.path,
            transport=self.server.connect(peer.user),
            clock=peer.clock,
            entropy=self.dice.randbytes,
        )
        peer.next = Next(rebase=not peer.replica._engine.state().bootstrapped)

    # ---- steps --------------------------------------------------------------------

    def step(self, step: Step) -> None:
        kind, who, x, y = step
        self.now_ms += (0, 1, 1, 5, 30)[(kind + x) % 5]
        peer = self.peers[who % len(self.peers)]
        if kind < 50:
            self.act(peer, kind, x, y)
        elif kind < 56:
            self.ask(peer)
        elif kind < 64:
            self.deliver(peer, x, y)
        elif kind < 70:
            self.answer(peer, x, y)
        elif kind < 82:
            self.exchange(peer, lose=kind == 70)
        elif kind < 90:
            self.sync(peer)
        elif kind < 92:
            if len(self.peers) < 6:
                self.join(USERS[x % 3])
        else:
            self.disturb(peer, x, y)
        if self.setting.always_serial:
            self.check_serial("at a commit")

    def disturb(self, peer: Peer, x: int, y: int) -> None:
        """One of the disturbances that this setting allows."""
        setting = self.setting
        kinds = [self.prune] * setting.prune + [self.toggle_member] * setting.churn
        kinds += [self.copy_or_restore] * setting.restored
        if kinds:
            kinds[(x + y) % len(kinds)](peer, x, y)

    def prune(self, peer: Peer, x: int, y: int) -> None:
        if x % 3:
            pruned = peer.replica.prune(keep=y % 4)
            self.say(peer, f"prunes {pruned}")
        else:
            self.say(peer, f"server prunes {self.server.prune(y % 8)}")

    def toggle_member(self, peer: Peer, x: int, y: int) -> None:
        room = f"room:{ROOMS[x % 2]}"
        self.server.audiences[USERS[y % 3]] ^= {room}
        self.say(peer, f"now {USERS[y % 3]} sees {sorted(self.server.audiences[USERS[y % 3]])}")

    def act(self, peer: Peer, kind: int, x: int, y: int) -> None:
        names = ["create", "add", "add", "take", "retitle", "remove", "claim", "sweep", "swap"]
        names += ["chain", "move", "wander"] + (
            ["note", "tally", "leak"] if self.setting.private else []
        )
        name = names[kind % len(names)]
        app = peer.replica._definition
        action = app.actions.get((name, 1))
        if action is None:
            return
        args: dict[str, Any] = {"room": ROOMS[x % 2]}
        if name == "note":
            args = {"owner": peer.user, "note": f"n{y % 2}"}
        elif name not in ("sweep", "tally"):
            args["item"] = f"{args['room'][0]}-{ITEMS[y % 3]}"
        if name == "add":
            args["by"] = (1, 2, 10)[y % 3]
        if name == "retitle":
            args["title"] = (None, "x", "y")[x % 3]
        if name == "swap":
            args["other"] = f"{args['room'][0]}-{ITEMS[x % 3]}"
        if name == "move":
            args["to"] = ROOMS[y % 2]
        if name == "wander":
            args |= {"to": ROOMS[1 - x % 2], "item": f"w-{y % 2}"}
        try:
            run = peer.replica.run(action, **args)
        except (AssertionError, KeyError):
            raise
        except Exception as error:
            self.say(peer, f"{name} {args} raised {error!r}")
            return
        self.made[run.id] = peer
        self.say(peer, f"{name} {args} -> {run.id[-6:]}")

    def ask(self, peer: Peer) -> None:
        if not peer.next.rebase:
            peer.asked.append(peer.replica._engine.ask(upload=peer.next.upload))
            self.say(peer, "asks")

    def deliver(self, peer: Peer, x: int, y: int) -> None:
        """A request arrives; it may stay in the network and arrive again."""
        if not peer.asked:
            return
        i = x % len(peer.asked)
        request = peer.asked[i] if y % 5 == 0 else peer.asked.pop(i)
        answer = peer.replica._syncing._transport.exchange(request)
        self.say(peer, f"request {request.exchange.number} arrives: {type(answer).__name__}")
        if y % 7:
            peer.answered.append((request, answer))

    def answer(self, peer: Peer, x: int, y: int) -> None:
        if not peer.answered:
            return
        i = x % len(peer.answered)
        request, answer = peer.answered[i] if y % 5 == 0 else peer.answered.pop(i)
        self.take(peer, request, answer)

    def take(self, peer: Peer, request: SyncRequest, answer: SyncAnswer) -> None:
        taken = peer.replica._engine.take(request, answer)
        self.report.add(taken.report)
        self.check_nothing_hidden(peer)
        peer.next = (
            taken.next if taken.next.rebase else peer.next._replace(upload=taken.next.upload)
        )
        self.say(peer, f"takes {type(answer).__name__} to {request.exchange.number}")

    def exchange(self, peer: Peer, *, lose: bool = False) -> Next:
        """One exchange, or a snapshot where one is due."""
        engine, transport = peer.replica._engine, peer.replica._syncing._transport
        if peer.next.rebase:
            wish = engine.ask_snapshot(new_epoch=peer.next.new_epoch)
            chunks = list(transport.snapshot(wish))
            if lose:
                return peer.next
            taken = engine.take_snapshot(wish, chunks, new_epoch=peer.next.new_epoch)
            self.say(peer, "takes a snapshot")
        else:
            request = engine.ask(upload=peer.next.upload)
            answer = transport.exchange(request)
            self.say(peer, f"exchange {request.exchange.number}: {type(answer).__name__}")
            if lose:
                return peer.next._replace(again=True)
            taken = engine.take(request, answer)
        self.report.add(taken.report)
        self.check_nothing_hidden(peer)
        peer.next = taken.next
        return taken.next

    def sync(self, peer: Peer) -> None:
        for _ in range(ROUNDS_MAX):
            next = self.exchange(peer)
            self.now_ms += 1 + (next.wait_ms or 0)
            if not next.again and next.wait_ms is None:
                return
        raise Failed(f"{peer.user} does not come to rest (S4): {peer.next}")

    def copy_or_restore(self, peer: Peer, x: int, y: int) -> None:
        """The file is copied away, or put back as it was then (O6)."""
        copy = f"{peer.path}.copy"
        if not peer.copied or x % 2:
            peer.replica._engine.store.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy(peer.path, copy)
            peer.copied = True
            self.say(peer, "file copied away")
        else:
            peer.replica.close()
            shutil.copy(copy, peer.path)
            self.open(peer)
            peer.answered.clear()
            self.restored = True
            self.say(peer, "file put back")

    # ---- the end ------------------------------------------------------------------

    def settle(self) -> None:
        """Faults stop; everyone syncs until nothing changes any more."""
        for peer in self.peers:
            for request in peer.asked:
                peer.replica._syncing._transport.exchange(request)
        for _ in range(ROUNDS_MAX):
            before = self.server._state.seq
            for peer in self.peers:
                self.sync(peer)
            if self.server._state.seq == before:
                return
        raise Failed("corrections go on for ever (S4)")

    def check(self) -> None:
        for peer in self.peers:
            self.check_converged(peer)
            if waiting := [o for o in peer.replica.outcomes() if o.state == "pending"]:
                raise Failed(f"{peer.user}: the queue does not empty: {waiting}")
        self.check_nothing_lost()
        if self.setting.serial:
            self.check_serial("in the end")

    def check_converged(self, peer: Peer) -> None:
        audiences = self.server.audiences[peer.user]
        want = {
            table: [row for row in self.stored(table) if row["audience_key"] in audiences]
            for table in self.app.schema.tables
        }
        have = tables_of(peer.replica._engine.store)
        if have != want:
            raise Failed(f"{peer.user} diverged (S8):\n  has  {have}\n  want {want}")

    def check_nothing_hidden(self, peer: Peer) -> None:
        """Rows of audiences that the user cannot see come from pending actions only (S6)."""
        store = peer.replica._engine.store
        state = store.read_state()
        allowed = set(state.audiences)
        for entry in store.log.pending():
            allowed.update(target.audience for target in entry.effects)
        for table, rows in tables_of(store).items():
            for row in rows:
                if row["audience_key"] not in allowed:
                    raise Failed(f"{peer.user} holds a hidden row of {table} (S6): {row}")

    def check_nothing_lost(self) -> None:
        accepted = {record.seed for record in self.server.history}
        for id, peer in self.made.items():
            if self.restored:
                continue
            outcome = peer.replica.outcome(id)
            record = next((r for r in self.server.history if r.id == id), None)
            if record is None and outcome.state not in ("parked", "discarded"):
                raise Failed(f"{id} of {peer.user} is lost: {outcome}")
        if len(accepted) != len(self.server.history):
            raise Failed("an action was accepted twice")

    def check_serial(self, when: str) -> None:
        want = serial_tables(self.app, self.server.history)
        have = {table: self.stored(table) for table in want}
        if have != want:
            raise Failed(f"not serial {when} (S7):\n  has  {have}\n  want {want}")

    def stored(self, table: str) -> list[dict[str, Any]]:
        """The server's rows; this application's Python values are the stored ones."""
        return [dict(row) for row in self.server.rows(table)]

    def say(self, peer: Peer, what: str) -> None:
        if self.trace:
            print(f"{self.peers.index(peer)} {peer.user}: {what}")


def play(
    setting: Setting,
    steps: Sequence[Step],
    make: Callable[..., MemoryServer] = MemoryServer,
    *,
    trace: bool = False,
) -> World:
    """Run a history to its end, with the server that `make` makes. Raises `Failed`."""
    world = World(setting, make, trace=trace)
    try:
        for step in steps:
            world.step(step)
        world.settle()
        world.check()
    finally:
        for peer in world.peers:
            peer.replica.close()
        world.folder.cleanup()
    return world


def random_steps(seed: int) -> list[Step]:
    dice = random.Random(seed)
    return [
        (dice.randrange(100), dice.randrange(60), dice.randrange(60), dice.randrange(60))
        for _ in range(dice.randint(10, 60))
    ]


def play_seeds(name: str, seeds: range, *, trace: bool = False) -> str | None:
    """Play the histories of these seeds; what the first that fails says, None if all hold."""
    for seed in seeds:
        try:
            play(SETTINGS[name], random_steps(seed), trace=trace)
        except (Failed, SynchrotronError, AssertionError) as failure:
            return f"{name}, seed {seed}: {failure!r:.2000}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="plain")
    parser.add_argument("--seeds", default="0:100", help="from:to")
    parser.add_argument("--trace", action="store_true", help="tell every step")
    options = parser.parse_args()
    seeds = range(*map(int, options.seeds.split(":")))
    names = list(SETTINGS) if options.setting == "all" else [options.setting]
    failed = False
    with ProcessPoolExecutor() as pool:
        for name, failure in zip(
            names,
            pool.map(partial(play_seeds, seeds=seeds, trace=options.trace), names),
            strict=True,
        ):
            print(failure or f"{name}: {len(seeds)} histories hold every oracle", flush=True)
            failed |= failure is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

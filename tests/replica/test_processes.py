"""Several processes on one file: each reads and runs, and learns what others commit."""

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.replica.shop import add, app, create_counter

ROOT = Path(__file__).parent.parent.parent
COUNTERS = "SELECT id, n FROM counter"
WORKER = """
import os, signal, sys
from tests.replica.shop import add, app, create_task
replica = app.open(sys.argv[1], user="alice")
for line in sys.stdin:
    match line.split():
        case ["add", times]:
            for _ in range(int(times)):
                replica.run(add, id="x", by=1)
        case ["task", id]:
            replica.run(create_task, id=id)
        case ["die"]:
            with replica._engine.lock, replica._engine.store.database.transaction():
                replica._engine.store.writer.execute("DELETE FROM counter WHERE true")
                os.kill(os.getpid(), signal.SIGKILL)
    print("done", flush=True)
"""


class Other:
    """Another process on the same file, told what to do line by line."""

    def __init__(self, path, program=WORKER):
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line):
        """Tell it, and give the moment when it had done so."""
        self.tell(line)
        assert self.process.stdout.readline() == "done\n"
        return time.monotonic()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "shared.db"


@pytest.fixture
def replica(file):
    with app.open(file, user="alice") as replica:
        replica.run(create_counter, id="x")
        yield replica


@pytest.fixture
def other(file, replica):
    other = Other(file)
    yield other
    other.close()


def soon(live):
    """The next rows; a test that waits in vain fails, and does not hang."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(next, live).result(30)
        except TimeoutError:
            live.close()
            raise


@pytest.mark.spec("L5")
def test_a_live_query_follows_what_another_process_commits(replica, other):
    live = replica.live(COUNTERS)
    assert soon(live)[0]["n"] == 0
    other.do("add 1")
    assert soon(live)[0]["n"] == 1
    other.do("task t")  # of another table: it is read, and not given
    replica.run(add, id="x", by=10)
    assert soon(live)[0]["n"] == 11
    other.do("add 5")
    assert soon(live)[0]["n"] == 16


@pytest.mark.spec("L5")
def test_in_a_coroutine_as_well_and_without_a_commit_nothing_is_given(replica, other):
    async def main():
        live = replica.live(COUNTERS)
        await anext(live)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(live), 0.3)
        await asyncio.to_thread(other.do, "add 3")
        assert (await asyncio.wait_for(anext(live), 60))[0]["n"] == 3
        await asyncio.to_thread(other.do, "task t")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(live), 0.3)

    asyncio.run(main())


@pytest.mark.spec("L5", "S1")
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_and_stops_nobody(replica, other):
    live = replica.live(COUNTERS)
    assert soon(live)[0]["n"] == 0
    other.do("add 2")
    assert soon(live)[0]["n"] == 2
    other.tell("die")
    assert other.process.wait(60) < 0
    replica.run(add, id="x", by=1)
    assert soon(live)[0]["n"] == 3


@pytest.mark.spec("O2")
def test_processes_that_run_at_once_take_turns_and_no_id_twice(replica, other):
    other.tell("add 30")
    for _ in range(30):
        replica.run(add, id="x", by=1)
    assert other.process.stdout.readline() == "done\n"
    assert replica.query(COUNTERS)[0]["n"] == 60
    ids = [record.id for record in replica.log()]
    assert len(set(ids)) == len(ids) == 61


@pytest.mark.spec("L5")
def test_an_outcome_is_waited_for_also_where_another_process_syncs(world):
    a = world.synced("alice", "a.db")
    run = a.run(create_counter, id="x")
    with world.replica("alice", "a.db") as syncing:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run.wait)
            while not a._bell._wakers:
                time.sleep(0.001)
            syncing.sync()  # another object on the file: nothing wakes the first one
            try:
                assert waiting.result(10).state == "accepted"
            finally:
                a.close()


# ---- one of them syncs -----------------------------------------------------------------

SYNCER = """
import sys
from tests.replica.shop import app
from synchrotron.store.turn import Turn
turn = Turn(sys.argv[1] + "-sync")
assert turn.take()
print("done", flush=True)
sys.stdin.read()
"""


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


@pytest.mark.spec("L6")
def test_one_syncs_for_all_and_is_woken_by_what_another_runs(world):
    with (
        world.synced("alice", "a.db") as a,
        world.replica("alice", "a.db") as b,
        a.syncing(),
    ):
        until(lambda: a._background._turn._connection)
        requests = len(world.wires[b].sent)
        with b.syncing():
            run = b.run(create_counter, id="x")
            assert run.wait(30).state == "accepted"
        assert len(world.wires[b].sent) == requests, "it left that to the other one"
        assert [record.id for record in world.server.history] == [run.id]


@pytest.mark.spec("L6")
def test_when_the_one_that_syncs_is_killed_another_takes_over(world):
    with world.synced("alice", "a.db") as a:
        killed = Other(world.folder / "a.db", SYNCER)
        assert killed.process.stdout.readline() == "done\n"
        with a.syncing():
            run = a.run(create_counter, id="x")
            with pytest.raises(TimeoutError):
                run.wait(0.5)
            killed.process.kill()
            assert run.wait(30).state == "accepted"
        killed.close()


@pytest.mark.spec("L6")
def test_a_process_that_ends_syncing_gives_its_turn_up(world):
    with world.synced("alice", "a.db") as a, world.replica("alice", "a.db") as b:
        with a.syncing():
            until(lambda: a._background._turn._connection)
        with b.syncing():
            assert b.run(create_counter, id="x").wait(30).state == "accepted"

"""`kill -9` of server processes, of PostgreSQL and of replicas, while replicas work.

SYNCHROTRON_DEATHS says how many die; the suite takes few. Between two deaths something is
accepted, so that each meets work in progress.
"""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crashes import ledger
from tests.postgres.cluster import execute
from tests.postgres.fleet import USERS
from tests.postgres.test_concurrency import line_of, server_tables, start, stored_records

from synchrotron.server.embedded import EmbeddedPostgres
from synchrotron.server.install import install
from synchrotron.testing.oracle import serial_tables, tables_of

pytestmark = pytest.mark.slow

DEATHS = int(os.environ.get("SYNCHROTRON_DEATHS", "4"))
PROGRESS_S_MAX = 60
SEED = int(os.environ["SYNCHROTRON_SEED"])
SEATS = (0, 4)
"""The seeds of the worker processes, of four replicas each."""


class Site:
    """A cluster, two server processes and two of replicas, all of which may die."""

    def __init__(self, postgres: EmbeddedPostgres, database: str, folder: Path) -> None:
        self.postgres, self.database, self.folder = postgres, database, folder
        self.sockets = [str(folder / "one"), str(folder / "two")]
        self.servers = [self._serve(path) for path in self.sockets]
        self.workers = [self._work(seat) for seat in SEATS]
        self.deaths: Counter[str] = Counter()

    def _serve(self, path: str) -> subprocess.Popen[str]:
        Path(path).unlink(missing_ok=True)
        return start("serve", self.database, path)

    def _work(self, seat: int) -> subprocess.Popen[str]:
        return start("work", ",".join(self.sockets), str(self.folder), str(seat), "4", "0")

    def kill_something(self, dice: random.Random) -> None:
        victim = dice.choice(("server", "server", "postgres", "replicas"))
        self.deaths[victim] += 1
        i = dice.randrange(2)
        if victim == "server":
            kill(self.servers[i])
            self.servers[i] = self._serve(self.sockets[i])
        elif victim == "replicas":
            kill(self.workers[i])
            self.workers[i] = self._work(SEATS[i])
        else:
            self.postgres.stop(at_once=True)
            self.postgres.start()

    def revive(self) -> None:
        """Server processes that found no PostgreSQL when they started are started again."""
        for i, server in enumerate(self.servers):
            if server.poll() is not None:
                kill(server)
                self.servers[i] = self._serve(self.sockets[i])

    def wait_for_progress(self) -> None:
        """Until something more is accepted."""
        before, end = self._accepted(), time.monotonic() + PROGRESS_S_MAX
        while self._accepted() < before + 2:
            assert time.monotonic() < end, "nothing is accepted any more"
            self.revive()
            time.sleep(0.02)

    def _accepted(self) -> int:
        [(count,)] = execute(self.database, "SELECT count(*) FROM synchrotron.actions")
        return int(str(count))

    def settle(self) -> None:
        """Faults stop; everyone syncs until nothing changes any more."""
        self.revive()
        (self.folder / "stop").touch()
        for worker in self.workers:
            assert line_of(worker) == "worked"
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            assert worker.wait(120) == 0

    def close(self) -> None:
        for process in [*self.servers, *self.workers]:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with EmbeddedPostgres() as postgres:
        database = postgres.database("ledger")
        install(ledger.app, database)
        # Everyone is a member, by a table that is no application's.
        execute(database, "CREATE TABLE members AS SELECT unnest(%s::text[]) AS u", list(USERS))
        execute(database, "GRANT SELECT ON members TO PUBLIC")
        execute(
            database,
            "CREATE OR REPLACE VIEW synchrotron.members AS"
            " SELECT u AS user_id, 'all'::text COLLATE \"C\" AS audience FROM public.members",
        )
        execute(database, "UPDATE synchrotron.application SET audiences = 'given'")
        execute(database, "SELECT synchrotron.note_members()")
        site = Site(postgres, database, tmp_path)
        yield site
        site.close()


@pytest.mark.spec("O5", "O6", "H2", "H10")
def test_nothing_is_lost_or_done_twice_whoever_dies(site: Site, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    for _ in range(DEATHS):
        site.wait_for_progress()
        time.sleep(dice.uniform(0, 0.2))
        site.kill_something(dice)
    site.wait_for_progress()
    site.settle()

    records = [record for _, record in stored_records(site.database)]
    print(f"{dict(site.deaths)} deaths, {len(records)} actions")
    assert len({record.seed for record in records}) == len(records) > 0
    serial = serial_tables(ledger.app, records)
    assert server_tables(site.database) == serial
    accepted = {record.id for record in records}
    for path in sorted(tmp_path.glob("*.db")):
        with ledger.app.open(path) as replica:
            assert tables_of(replica._engine.store) == serial, path
            states = {outcome.id: outcome.state for outcome in replica.outcomes()}
            assert "pending" not in states.values()
            assert {id for id, state in states.items() if state != "parked"} <= accepted

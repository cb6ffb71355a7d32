"""`kill -9` of server processes, of PostgreSQL and of replicas, while replicas work.

    python -m tests.postgres.deaths --seconds 60 --seed 7

Two server processes and two of replicas, four in each, work on one cluster. Between two deaths
something is accepted, so that each meets work in progress. In the end everyone syncs, and every
invariant is looked at.
"""

from __future__ import annotations

import argparse
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crashes import ledger
from tests.postgres.cluster import execute
from tests.postgres.fleet import USERS
from tests.postgres.test_concurrency import line_of, server_tables, start, stored_records

from synchrotron.errors import ServerError
from synchrotron.server.embedded import EmbeddedPostgres
from synchrotron.server.install import install
from synchrotron.testing.oracle import serial_tables, tables_of

PROGRESS_S_MAX = 60
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
            self.postgres.kill()
            self._start_postgres()

    def _start_postgres(self) -> None:
        """It does not start while a process of before is still attached to its memory."""
        end = time.monotonic() + PROGRESS_S_MAX
        while True:
            try:
                return self.postgres.start()
            except ServerError:
                assert time.monotonic() < end, "PostgreSQL does not start again"
                time.sleep(0.1)

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


@contextmanager
def site_in(folder: Path) -> Iterator[Site]:
    """A site whose replicas keep their files in a folder."""
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
        site = Site(postgres, database, folder)
        try:
            yield site
        finally:
            site.close()


def work_and_die(site: Site, dice: random.Random, goes_on: Callable[[], bool]) -> None:
    """Kill one after another, as long as it goes on; then everyone gets in step."""
    while goes_on():
        site.wait_for_progress()
        time.sleep(dice.uniform(0, 0.2))
        site.kill_something(dice)
    site.wait_for_progress()
    site.settle()


def check(site: Site) -> int:
    """Nothing accepted is lost or there twice, and everyone agrees; how many actions it was."""
    records = [record for _, record in stored_records(site.database)]
    assert len({record.seed for record in records}) == len(records) > 0
    serial = serial_tables(ledger.app, records)
    assert server_tables(site.database) == serial
    accepted = {record.id for record in records}
    for path in sorted(site.folder.glob("*.db")):
        with ledger.app.open(path) as replica:
            assert tables_of(replica._engine.store) == serial, path
            states = {outcome.id: outcome.state for outcome in replica.outcomes()}
            assert "pending" not in states.values()
            assert {id for id, state in states.items() if state != "parked"} <= accepted
    return len(records)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="synchrotron-deaths-") as name:
        with site_in(Path(name)) as site:
            end_s = time.monotonic() + options.seconds
            work_and_die(site, random.Random(options.seed), lambda: time.monotonic() < end_s)
            actions = check(site)
    deaths = ", ".join(f"{count} of {what}" for what, count in sorted(site.deaths.items()))
    print(f"{sum(site.deaths.values())} deaths ({deaths}), {actions} actions, 8 replicas agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())

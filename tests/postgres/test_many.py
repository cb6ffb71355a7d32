"""What is judged, stored and read by the hundred is so as it would be one by one."""

import time
from typing import Any, NamedTuple

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import (
    APP,
    P1,
    Clock,
    File,
    correct,
    create_project,
    insert,
    row,
    update,
)

from synchrotron.core.messages import Denied, Invalid, Ok
from synchrotron.server.parameters import multirange

HISTORY = ("actions", "patches", "scopes", "targets")


def served(serve: Serve, policies: str | None = None) -> Served:
    return serve(described(APP, given=False, policies=policies), clock=Clock())


def member(server: Served, letter: str, user: str = "alice") -> File:
    return File(server, user, letter)  # type: ignore[arg-type]


@pytest.mark.spec("H1", "H6")
def test_of_many_actions_the_first_that_is_denied_is_named_whatever_denies_it(
    serve: Serve,
) -> None:
    """A hidden row is passed over without an error, and an error ends its whole statement."""
    policies = """
        CREATE POLICY small ON item AS RESTRICTIVE FOR INSERT WITH CHECK (n < 10);
        CREATE POLICY shown ON item AS RESTRICTIVE FOR UPDATE USING (n <> 7);
    """
    file = member(served(serve, policies), "a")
    file.ok(create_project(file, 1, "p1", "alice"))
    file.ok(*(file.action(i, insert(f"h{i}", 7)) for i in (2, 3)))

    def kind(i: int, faults: dict[int, str]) -> object:
        match faults.get(i):
            case "hidden":
                return update(f"h{2 + i % 2}", n=1)
            case "error":
                return insert(f"x{i}", 10)
            case _:
                return insert(f"x{i}", i % 7)

    faults = {20: "hidden", 41: "error", 42: "error", 59: "hidden"}
    first_n = file.n + 1
    while True:
        places = [i for i in range(60) if i < min(faults, default=60) or i not in faults]
        places += [i for i in faults if i not in places]
        sent = [
            file.action(100 + i, kind(i, faults), n=first_n + i)  # type: ignore[arg-type]
            for i in sorted(places)
        ]
        answer = file.send(*sent)
        if not faults:
            break
        assert isinstance(answer, Denied)
        assert answer.action_id.endswith(f"-{first_n + min(faults)}")
        del faults[min(faults)]
    assert isinstance(answer, Ok)


@pytest.mark.spec("H1", "H6")
def test_what_is_denied_is_told_before_what_is_invalid_and_leaves_nothing(serve: Serve) -> None:
    """The rows were written by then, and the statement that stores them was asked for."""
    server = served(serve, "CREATE POLICY shown ON item AS RESTRICTIVE FOR UPDATE USING (n <> 7)")
    file = member(server, "a")
    file.ok(create_project(file, 1, "p1", "alice"))
    file.ok(file.action(2, insert("hidden", 7)), file.action(3, insert("first", place=1)))
    before = stored(server)
    fitting = file.action(4, insert("third", place=3))
    invalid = file.action(5, insert("second", place=1))
    denied = file.action(6, update("hidden", n=1))
    for sent in ((fitting, denied), (fitting, invalid, denied)):
        answer = file.send(*sent)
        assert isinstance(answer, Denied)
        assert (answer.action_id, answer.key) == (denied.record.id, ["hidden"])
        assert stored(server) == before
    answer = file.send(fitting, invalid)
    assert isinstance(answer, Invalid)
    assert (answer.action_id, answer.key) == (invalid.record.id, ["second"])
    assert stored(server) == before
    file.ok(fitting)


def stored(server: Served) -> list[int]:
    """How many rows there are of everything that an upload stores, and the newest seq."""
    tables = ("public.item", *(f"synchrotron.{name}" for name in HISTORY))
    counts = [execute(server.database, f"SELECT count(*) FROM {name}")[0][0] for name in tables]
    return [*counts, execute(server.database, "SELECT seq FROM synchrotron.counter")[0][0]]


@pytest.mark.spec("S5")
def test_of_many_corrections_exactly_those_without_a_right_are_denied(serve: Serve) -> None:
    policies = "CREATE POLICY small ON item AS RESTRICTIVE FOR INSERT WITH CHECK (n < 10)"
    server = served(serve, policies)
    alice, bob = member(server, "a"), member(server, "b", "bob")
    alice.ok(create_project(alice, 1, "p1", "alice", "bob"))
    actions = [alice.action(10 + i, insert(f"x{i:02}")) for i in range(40)]
    alice.ok(*actions)
    bob.pull()
    values = [i % 3 * 9 for i in range(40)]  # 0, 9 and 18, which is too much
    answer = bob.ok(
        corrections=[
            correct(action, insert(f"x{i:02}", values[i])) for i, action in enumerate(actions)
        ]
    )
    assert [c.seq is None for c in answer.corrected] == [n >= 10 for n in values]


@pytest.mark.spec("H7")
def test_an_audience_that_is_declared_twice_is_one(serve: Serve) -> None:
    file = member(served(serve), "a")
    file.ok(create_project(file, 1, "p1", "alice"))
    file.ok(file.action(2, insert("x"), audiences=(P1, P1)))
    other = member(file.transport._served, "b")  # type: ignore[attr-defined]
    assert [event.record.audiences for event in other.pull().events][-1] == (P1, P1)


@pytest.mark.spec("O5")
def test_numbers_are_kept_as_the_ranges_that_they_fill() -> None:
    assert multirange([]) == "{}"
    assert multirange([5, 1, 3, 2, 9]) == "{[1,4),[5,6),[9,10)}"


def test_no_request_reads_the_whole_of_history(serve: Serve) -> None:
    """PostgreSQL counts the scans of each table; it would scan what it takes for a small one."""
    server = served(serve)
    alice, bob = member(server, "a"), member(server, "b", "bob")
    alice.ok(create_project(alice, 1, "p1", "alice", "bob"))
    counted = [scans(server)]
    for turn in range(4):
        work(alice, bob, turn)
        time.sleep(1.1)  # a connection tells its counts once a second, at the end of a transaction
        alice.pull()
        bob.pull()
        counted.append(scans(server))
    first, *_, before_last, last = counted
    for table in HISTORY:
        assert last[table].whole == first[table].whole
        assert last[table].indexed > first[table].indexed
        read_early = counted[2][table].rows - counted[1][table].rows
        read_late = last[table].rows - before_last[table].rows
        assert 0 < read_late < read_early + 50, f"{table}: more rows for the same work, later"


class Scans(NamedTuple):
    """How often a table was read as a whole, and by an index; how many rows that gave."""

    whole: int
    indexed: int
    rows: int


def scans(server: Served) -> dict[str, Scans]:
    found: list[Any] = execute(
        server.database,
        "SELECT relname, seq_scan, idx_scan, idx_tup_fetch FROM pg_stat_user_tables"
        " WHERE schemaname = 'synchrotron'",
    )
    return {table: Scans(*counts) for table, *counts in found}


def work(alice: File, bob: File, turn: int) -> None:
    """Everything that a replica asks for day by day."""
    at = 1_000 * (turn + 1)
    late = bob.action(at, insert(f"late{turn}"), update("x0", n=turn) if turn else insert("x0"))
    alice.ok(*(alice.action(at + 1 + i, insert(f"{turn}.{i}")) for i in range(50)))
    assert not isinstance(bob.send(late), Ok), "behind"
    bob.ok(late)
    alice.ok(events_max=10)
    alice.pull()
    alice.ok(corrections=[correct(late, insert(f"late{turn}", 5))])
    bob.pull()
    alice.pull()
    alice.ok(alice.action(at + 500, row("project", f"project:q{turn}", id=f"q{turn}", name="q")))

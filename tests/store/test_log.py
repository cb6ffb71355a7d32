"""Marking runs in the log as stored by the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synchrotron import App, Context, Replica
from synchrotron.core.ids import Seq
from synchrotron.store.log import Log

app = App(
    "log",
    schema="""
        CREATE TABLE note (
            id TEXT PRIMARY KEY, audience_key TEXT GENERATED ALWAYS AS ('all') STORED
        );
    """,
    audiences="SELECT 'ann' AS user_id, 'all' AS audience_key",
)


@app.action
def add(ctx: Context, *, id: str) -> None:
    ctx.execute("INSERT INTO note (id) VALUES (?)", (id,))


@pytest.fixture
def replica() -> Iterator[Replica]:
    with app.open(":memory:", user="ann") as replica:
        for n in range(1, 9):
            replica.run(add, id=str(n))
        yield replica


def stored(log: Log) -> dict[int, tuple[Seq | None, Seq | None]]:
    rows = log._execute("SELECT position, seq, newest FROM synchrotron_action ORDER BY position")
    return {position: (seq, newest) for position, seq, newest in rows}


@pytest.mark.spec("H4")
def test_runs_are_marked_with_their_seqs_whatever_gaps_there_are(replica: Replica) -> None:
    log = replica._engine.store.log
    records = {entry.position: entry.record for entry in log.pending()}
    seqs = {1: 10, 2: 11, 3: 13, 5: 15, 6: 16, 8: 17}
    accepted = [(n, Seq(seq), records[n]) for n, seq in seqs.items()]
    assert log.accept_runs(accepted) == accepted
    assert stored(log) == {n: (seqs.get(n), seqs.get(n)) for n in range(1, 9)}


@pytest.mark.spec("H4")
def test_what_is_not_as_it_ran_is_left_alone(replica: Replica) -> None:
    log = replica._engine.store.log
    entries = {entry.position: entry for entry in log.pending()}
    log.save([entries[2]])  # somebody has looked at it
    records = {n: entry.record for n, entry in entries.items() if n < 7}
    records[4] = records[4].moved(records[5].order_key)  # it has another place by now
    records[99] = records[5]
    accepted = [(n, Seq(10 + n), record) for n, record in records.items()]
    marked = [(n, seq, record) for n, seq, record in accepted if n in (1, 3, 5, 6)]
    assert log.accept_runs(accepted) == marked
    assert {n for n, (seq, _) in stored(log).items() if seq is not None} == {1, 3, 5, 6}
    assert log.accept_runs(accepted) == []  # they have a seq already
    assert log.accept_runs([]) == []

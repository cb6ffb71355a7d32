"""Where history changes, an action that rests on nothing that did is left as it is (S12).

Each test's history comes out alike with and without that: `both` plays it in both ways.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.replica.guestbook import guestbook

from synchrotron import Replica
from synchrotron.core.clock import Timestamp, order_key, to_datetime
from synchrotron.core.ids import Audience, ClientId, Seq, action_id
from synchrotron.core.patches import Known, insert
from synchrotron.core.records import ActionRecord
from synchrotron.store.effects import Effect
from synchrotron.store.log import Entry
from synchrotron.testing import MemoryServer


class Pair:
    """Alice, whose actions come first in the order, and Bob, who learns of them late."""

    def __init__(self, folder: Path, *, replay_all: bool) -> None:
        self.runs: list[str] = []
        self.app = guestbook(self.runs)
        self._folder = folder
        self._replay_all = replay_all
        clock = itertools.count(1_700_000_000_000).__next__
        self._server = MemoryServer(self.app, {"alice": {"all"}, "bob": {"all"}}, clock=clock)
        self._clock = clock
        self.opened: list[Replica] = []
        self.alice, self.bob = self._open("alice"), self._open("bob")
        self.alice.sync()
        self.bob.sync()

    def _open(self, user: str) -> Replica:
        replica = self.app.open(
            self._folder / f"{user}-{self._replay_all}.db",
            transport=self._server.connect(user),
            clock=self._clock,
            replay_all=self._replay_all,
        )
        self.opened.append(replica)
        return replica

    def run(self, replica: Replica, name: str, /, **arguments: Any) -> str:
        run: Any = replica.run(self.app.actions[name, 1], **arguments)
        return str(run.id)

    def reopen_bob(self) -> None:
        self.bob.close()
        self.bob = self._open("bob")

    def agree(self) -> None:
        for _ in range(4):
            self.alice.sync()
            self.bob.sync()

    def meet(self) -> list[str]:
        """Alice uploads, and Bob takes it in: what ran in Bob's replica."""
        self.alice.sync()
        self.runs.clear()
        self.bob.sync()
        return list(self.runs)

    def rows(self, replica: Replica) -> dict[str, list[Any]]:
        return {
            table: [row.as_tuple()[:-1] for row in replica.query(f"SELECT * FROM {table}")]
            for table in self.app.schema.tables
        }


History = Callable[[Pair], list[str]]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Callable[[History], tuple[list[str], Any]]]:
    """Play a history, which gives what ran, in both ways: what ran, and the rows in the end."""
    pairs = []

    def play(history: History) -> tuple[list[str], Any]:
        found = []
        for replay_all in (True, False):
            pair = Pair(tmp_path, replay_all=replay_all)
            pairs.append(pair)
            ran = history(pair)
            pair.agree()
            assert pair.rows(pair.alice) == pair.rows(pair.bob)
            found.append((ran, pair.rows(pair.bob)))
        (_, rows), (ran, same_rows) = found
        assert rows == same_rows
        return ran, rows

    yield play
    for pair in pairs:
        for replica in pair.opened:
            replica.close()


# ---- what stays ---------------------------------------------------------------------


@pytest.mark.spec("S12", "S2")
def test_what_rests_on_nothing_that_changed_is_not_run_again(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="a")
        for i in range(5):
            pair.run(pair.bob, "sign", id=f"b{i}")
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["sign a"]
    assert len(rows["entry"]) == 6


@pytest.mark.spec("S12")
def test_who_changed_a_row_by_its_key_is_not_run_again_for_another_row(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "sign", id="a")
        pair.run(pair.bob, "add", id="x", by=5)
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["sign a"]
    assert rows["entry"] == [("a", 1), ("x", 6)]


@pytest.mark.spec("S12")
def test_footprints_outlive_a_restart(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="a")
        pair.run(pair.bob, "sign", id="b")
        pair.reopen_bob()
        return pair.meet()

    assert both(history)[0] == ["sign a"]


@pytest.mark.spec("S12")
def test_what_was_accepted_stays_too(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="a")
        pair.run(pair.bob, "sign", id="b")
        pair.run(pair.bob, "count", page="p")
        pair.bob.sync()
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["sign a", "count p"]
    assert ("p", "2", None) in rows["page"]


@pytest.mark.spec("S12")
@pytest.mark.parametrize("flag", ["unsent", "denied", "overruled", "foreign"])
def test_what_is_disputed_is_judged_anew(flag: str) -> None:
    """Which of two patches is applied rests on who has standing, not on rows alone."""
    patch = insert({"id": "x"})
    effect = Effect("entry", ("x",), Audience("all"), patch, known=Known(patch, Seq(3), Seq(3)))
    entry = Entry(1, a_record(), Seq(3), {effect.target: effect}, rests_on=frozenset({"page"}))
    assert entry.footprint == "sign 1 page"
    setattr(effect, flag, True)
    assert entry.footprint is None


@pytest.mark.spec("S12")
def test_what_the_server_knows_otherwise_is_judged_anew() -> None:
    mine, its = insert({"id": "x"}), insert({"id": "x", "n": 2})
    effect = Effect("entry", ("x",), Audience("all"), mine, known=Known(its, Seq(3), Seq(3)))
    entry = Entry(1, a_record(), Seq(3), {effect.target: effect}, rests_on=frozenset())
    assert entry.footprint is None
    effect.known = None
    assert entry.footprint is None, "an addition is on its way"
    entry.seq = None
    assert entry.footprint == "sign 1 ", "a pending action has nothing to agree with"
    entry.error = "LookupError: none left"
    assert entry.footprint is None


def a_record() -> ActionRecord:
    client = ClientId("0" * 24)
    return ActionRecord(
        id=action_id(client, 1),
        seed="0" * 32,
        name="sign",
        version=1,
        args={},
        now=to_datetime(1_700_000_000_000),
        order_key=order_key(Timestamp(1_700_000_000_000, 0), client),
        client_id=client,
        user="alice",
    )


# ---- what runs again ------------------------------------------------------------------


@pytest.mark.spec("S12")
def test_who_counted_rows_counts_again_where_another_comes_before(both) -> None:
    """A predicate is over a table: the row that it did not see has no other trace."""

    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="a")
        pair.run(pair.bob, "sign", id="b")
        pair.run(pair.bob, "count", page="p")
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["sign a", "count p"]
    assert rows["page"] == [("p", "2", None)]


@pytest.mark.spec("S12")
def test_who_found_no_row_by_its_key_looks_again_where_one_comes_before(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="x")
        pair.run(pair.bob, "add", id="x", by=5)
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["sign x", "add x"]
    assert rows["entry"] == [("x", 6)]


@pytest.mark.spec("S12")
def test_a_late_action_does_not_see_what_lies_ahead_of_it(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "count", page="p")
        pair.run(pair.bob, "sign", id="b")
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["count p", "count p", "sign b"], "taken back, and run once more"
    assert rows["page"] == [("p", "0", None)]


@pytest.mark.spec("S12")
def test_a_delete_without_a_condition_takes_nothing_that_comes_after_it(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="early")
        pair.agree()
        pair.run(pair.alice, "strike_all")
        pair.run(pair.bob, "sign", id="late")
        pair.meet()
        return []

    assert both(history)[1]["entry"] == [("late", 1)]


@pytest.mark.spec("S12")
def test_images_before_are_right_however_often_history_changes(both) -> None:
    """Later actions on one row, one by one undone from under the last."""

    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "add", id="x", by=10)
        pair.run(pair.bob, "sign", id="other")
        pair.run(pair.bob, "add", id="x", by=100)
        pair.meet()
        pair.run(pair.alice, "raise_to", id="x", n=5)
        pair.run(pair.bob, "add", id="x", by=1000)
        pair.run(pair.bob, "sign", id="another")
        pair.meet()
        pair.run(pair.alice, "strike", id="x")
        pair.run(pair.bob, "add", id="x", by=1)
        pair.meet()
        return []

    assert both(history)[1]["entry"] == [("another", 1), ("other", 1)]


@pytest.mark.spec("S12")
def test_a_key_that_is_taken_by_what_comes_after_is_free_before(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "sign", id="x")
        pair.run(pair.bob, "sign", id="x")
        pair.run(pair.bob, "sign", id="y")
        return pair.meet()

    ran, rows = both(history)
    assert ran[:3] == ["sign x", "sign x", "sign x"], "Alice's, again where it is free; Bob's"
    assert rows["entry"] == [("x", 1), ("y", 1)]


@pytest.mark.spec("S12")
def test_a_unique_value_that_is_taken_by_what_comes_after_is_free_before(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.alice, "write", id="a", name="same")
        pair.run(pair.bob, "write", id="b", name="same")
        pair.run(pair.bob, "write", id="c", name="other")
        pair.meet()
        return []

    rows = both(history)[1]
    assert [row[0] for row in rows["page"]] == ["a", "c"]


@pytest.mark.spec("S12")
@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("sign_if_free", {"id": "x", "page": "p"}),
        ("sign_unless_there", {"id": "x"}),
    ],
)
def test_who_met_a_row_and_changed_none_runs_again_where_that_row_goes(
    both, action: str, arguments: dict[str, str]
) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "strike", id="x")
        pair.run(pair.bob, action, **arguments)
        return pair.meet()

    assert any(name.endswith(" x") and "strike" not in name for name in both(history)[0])


@pytest.mark.spec("S12", "A8")
def test_who_made_a_row_and_took_it_away_runs_again_where_it_was_there_before(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="entry")
        pair.agree()
        pair.run(pair.alice, "reply", id="x", to="entry")
        pair.run(pair.bob, "touch", id="x", to="entry", page="p")
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["reply x", "touch x"]
    assert rows["page"] == [], "and it was rejected"


@pytest.mark.spec("S12")
def test_a_row_goes_back_to_the_image_before_the_earliest_that_changed_it(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "add", id="x", by=10)
        pair.run(pair.bob, "add", id="x", by=100)
        pair.run(pair.bob, "add", id="x", by=1000)
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["add x"] * 3
    assert rows["entry"] == [("x", 1111)]


@pytest.mark.spec("S12", "A9")
def test_who_points_to_a_row_runs_again_where_that_row_goes(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "strike", id="x")
        pair.run(pair.bob, "reply", id="r", to="x")
        pair.run(pair.bob, "write", id="w", name="n")
        return pair.meet()

    ran, rows = both(history)
    assert ran == ["strike x", "strike x", "reply r"], "which fails; the page stays"
    assert (rows["reply"], rows["entry"]) == ([], [])


@pytest.mark.spec("S12", "A8")
def test_a_cascade_takes_nothing_that_comes_after_it(both) -> None:
    def history(pair: Pair) -> list[str]:
        pair.run(pair.bob, "sign", id="x")
        pair.agree()
        pair.run(pair.alice, "strike", id="x")
        pair.run(pair.bob, "sign_unless_there", id="x")
        pair.run(pair.bob, "reply", id="r", to="x")
        pair.meet()
        return []

    rows = both(history)[1]
    assert (rows["entry"], rows["reply"]) == ([("x", 9)], [("r", 1, "x")])

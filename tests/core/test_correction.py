"""Who may correct: every rule of standing, and every choice between replay and known."""

from __future__ import annotations

from itertools import product

import pytest

from synchrotron.core.clock import OrderKey
from synchrotron.core.correction import Before, Decision, decide
from synchrotron.core.ids import Seq
from synchrotron.core.patches import DELETE, Known, Patch, insert, update
from synchrotron.core.plan import FastForward, InStep, Rewind, make_plan

R = update({"n": 1})
K = update({"n": 2})
BASIS = 10
SETTLED = Before(BASIS, unsettled=False)


def known(patch: Patch | None) -> Known:
    return Known(patch, Seq(BASIS), Seq(BASIS))


def choose(
    replayed: Patch | None,
    what: Known | None,
    before: Before = SETTLED,
    *,
    unsent: bool = False,
    may_correct: bool = True,
    visible: bool = True,
) -> Decision:
    return decide(replayed, what, before, unsent=unsent, may_correct=may_correct, visible=visible)


# ---- standing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "unsettled", "standing"),
    [
        (BASIS - 1, False, False),
        (BASIS, False, False),
        (BASIS + 1, False, True),
        (0, True, True),
        (BASIS + 1, True, True),
    ],
)
def test_standing_is_history_before_that_changed_since_the_basis(
    newest: int, unsettled: bool, standing: bool
) -> None:
    assert Before(newest, unsettled).gives_standing_over(Seq(BASIS)) is standing


def test_an_event_a_pending_action_or_an_unsent_correction_before_counts_for_all_after() -> None:
    before = Before(3, unsettled=False)
    assert before.then(Seq(2), unsettled=False) == (3, False), "an older event changes nothing"
    assert before.then(Seq(9), unsettled=False) == (9, False)
    assert before.then(None, unsettled=True) == (3, True)
    assert before.then(None, unsettled=True).then(Seq(4), unsettled=False) == (4, True)


# ---- the choice ----------------------------------------------------------------------


@pytest.mark.spec("S3")
@pytest.mark.parametrize("replayed", [R, K, insert({"n": 1}), DELETE, None])
@pytest.mark.parametrize("patch", [K, DELETE, None])
def test_without_standing_what_is_known_is_applied_whatever_the_replay_did(
    replayed: Patch | None, patch: Patch | None
) -> None:
    assert choose(replayed, known(patch)) == (patch, False)


@pytest.mark.parametrize(
    ("replayed", "patch", "correction"),
    [
        (R, K, True),
        (K, K, False),
        (update({"n": 2.0}), K, True),
        (None, K, True),  # a removal
        (R, None, True),  # an addition where a correction had removed
        (None, None, False),
        (DELETE, DELETE, False),
    ],
)
@pytest.mark.parametrize(
    ("before", "unsent"),
    [
        (Before(BASIS + 1, unsettled=False), False),
        (Before(0, unsettled=True), False),
        (SETTLED, True),
    ],
    ids=["a newer event before", "an unsettled action before", "an unsent correction of its own"],
)
def test_with_standing_the_replay_stands_and_is_sent_where_it_differs(
    replayed: Patch | None, patch: Patch | None, correction: bool, before: Before, unsent: bool
) -> None:
    assert choose(replayed, known(patch), before, unsent=unsent) == (replayed, correction)


@pytest.mark.parametrize("before", [SETTLED, Before(99, unsettled=True)])
def test_where_nothing_is_known_the_replay_stands_and_is_an_addition(before: Before) -> None:
    assert choose(R, None, before) == (R, True)
    assert choose(None, None, before) == (None, False)


@pytest.mark.spec("S6")
def test_rows_that_the_user_cannot_see_are_not_written() -> None:
    assert choose(R, None, Before(99, unsettled=True), visible=False) == (None, False)


@pytest.mark.spec("S5", "S10")
@pytest.mark.parametrize("what", [known(K), known(None), None])
def test_unknown_code_and_a_denied_row_correct_nothing_and_add_nothing(
    what: Known | None,
) -> None:
    for replayed, unsent in product((R, None), (True, False)):
        chosen = choose(
            replayed, what, Before(99, unsettled=True), unsent=unsent, may_correct=False
        )
        assert chosen == (what.patch if what else None, False)


@pytest.mark.spec("S4")
def test_a_correction_made_known_is_not_made_again() -> None:
    before = Before(BASIS + 5, unsettled=False)
    patch, correction = choose(R, known(K), before)
    assert correction
    taken_in = Known(patch, Seq(BASIS + 6), Seq(BASIS + 6))
    assert choose(R, taken_in, before.then(Seq(BASIS + 6), unsettled=False)).correction is False


# ---- plans ---------------------------------------------------------------------------


@pytest.mark.spec("S2")
@pytest.mark.parametrize(
    ("changes", "last", "plan"),
    [
        ([], "5", InStep()),
        (["7", "6"], "5", FastForward(OrderKey("6"))),
        (["7", "3", "4"], "5", Rewind(OrderKey("3"))),
        (["5"], "5", Rewind(OrderKey("5"))),
        (["1"], "", FastForward(OrderKey("1"))),
    ],
)
def test_a_plan_starts_where_histories_part(
    changes: list[str], last: str, plan: InStep | FastForward | Rewind
) -> None:
    made = make_plan(map(OrderKey, changes), OrderKey(last))
    assert (type(made), made) == (type(plan), plan)

"""Strict mode tells what an action reaches for, by its line, and what to use instead."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.strict import impurities

from synchrotron import Replica
from synchrotron.errors import DeterminismWarning, ImpureAction

SOURCE = impurities.__file__


def impure_line(action: Any) -> str:
    """The file and line of an action's planted fault, as a message shows it."""
    lines = Path(SOURCE).read_text().splitlines()
    start = action.function.__code__.co_firstlineno
    fault = next(n for n in range(start, len(lines) + 1) if lines[n - 1].endswith("# impure"))
    return f"{SOURCE}:{fault}, in {action.name}"


@pytest.fixture
def replica() -> Iterator[Replica]:
    with impurities.app.open(":memory:", user="alice", strict=True) as opened:
        opened.run(impurities.fill)
        yield opened


REFUSED = {
    "wall_clock": "use ctx.now",
    "wall_clock_as_datetime": "use ctx.now",
    "today": "use ctx.now",
    "shared_dice": "use ctx.random",
    "shared_dice_through_python": "use ctx.random",
    "dice_seeded_by_the_machine": "use ctx.random",
    "dice_of_the_system": "use ctx.random",
    "random_uuid": "use ctx.new_id",
    "random_bytes": "use ctx.random",
    "secret": "use ctx.random",
    "network_call": "pass what came as an argument",
    "swallowed_network_call": "pass what came as an argument",
    "other_process": "as an argument",
    "thread": "do that outside",
    "module_level_counter": "Pass the value as an argument",
    "unordered_limit": "Add ORDER BY",
    "unordered_limit_within": "Add ORDER BY",
    "result_by_order": "Add ORDER BY",
    "raises_by_order": "Add ORDER BY",
}
WARNED = {
    "environment": "pass it as an argument",
    "file_read": "pass what is in it as an argument",
    "float_by_locale": "format them where they are shown",
    "float_by_locale_in_an_f_string": "format them where they are shown",
}


@pytest.mark.spec("A3")
@pytest.mark.parametrize(("name", "remedy"), REFUSED.items())
def test_an_impure_action_is_refused_with_its_line_and_what_to_use_instead(
    replica: Replica, name: str, remedy: str
) -> None:
    action = getattr(impurities, name)
    before = replica.query("SELECT * FROM note")
    with pytest.raises(ImpureAction) as caught:
        replica.run(action)
    assert impure_line(action) in str(caught.value)
    assert remedy in str(caught.value)
    assert action.title in str(caught.value)
    # Nothing of either run is left behind.
    assert replica.query("SELECT * FROM note") == before
    assert [record.name for record in replica.log()] == ["fill"]


@pytest.mark.spec("A3")
@pytest.mark.parametrize(("name", "remedy"), WARNED.items())
def test_what_may_differ_on_another_machine_is_warned_of_at_its_line(
    replica: Replica, name: str, remedy: str
) -> None:
    action = getattr(impurities, name)
    with pytest.warns(DeterminismWarning) as caught:
        replica.run(action)
    [warning] = caught
    assert impure_line(action) in str(warning.message)
    assert remedy in str(warning.message)
    assert f"{warning.filename}:{warning.lineno}, in {name}" == impure_line(action)
    assert [record.name for record in replica.log()] == ["fill", name]


@pytest.mark.parametrize("name", WARNED)
def test_a_warning_that_the_filters_make_an_error_fails_the_run(
    replica: Replica, name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeterminismWarning):
            replica.run(getattr(impurities, name))
    assert [record.name for record in replica.log()] == ["fill"]


def test_a_pure_action_runs_without_a_word(replica: Replica) -> None:
    result = replica.run(impurities.pure).result
    assert result == {row["id"] for row in replica.query("SELECT id FROM note")}
    assert [record.name for record in replica.log()] == ["fill", "pure"]
    assert {row["n"] for row in replica.query("SELECT n FROM note WHERE id GLOB 'n?'")} == {
        1, 2, 3, 4, 5
    }  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *WARNED, "set_order", "hash_of_a_text"])
def test_out_of_strict_mode_nobody_looks(name: str) -> None:
    with impurities.app.open(":memory:", user="alice", strict=False) as replica:
        replica.run(impurities.fill)
        meets = {"network_call": OSError, "raises_by_order": LookupError}.get(name)
        with pytest.raises(meets) if meets else nullcontext():
            replica.run(getattr(impurities, name))


def test_another_profiler_of_the_thread_is_put_back(replica: Replica) -> None:
    calls: list[str] = []

    def profiler(frame: Any, event: str, arg: Any) -> None:
        calls.append(event)

    sys.setprofile(profiler)
    try:
        replica.run(impurities.pure)
        with pytest.raises(ImpureAction):
            replica.run(impurities.wall_clock)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert calls

"""The doctor finds nothing in a sound file, and each planted fault in one that is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from tests.replica import shop
from tests.replica.shop import create_project, create_todo

from synchrotron import App
from synchrotron.inspection.doctor import CHECKS, FOUNDATIONS, Checked, examine
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.health import Finding, findings_of_libraries, findings_of_room
from synchrotron.replica.exchange import Taken
from synchrotron.testing import MemoryServer
from synchrotron.testing.simulation.device import Device
from synchrotron.testing.simulation.trial import Trial
from synchrotron.testing.simulation.world import World

Plant = Callable[[apsw.Connection], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with three accepted actions and one that waits."""
    path = tmp_path / "alice.db"
    server = MemoryServer(shop.app)
    with shop.app.open(path, transport=server.connect("alice")) as replica:
        replica.run(create_project, id="p")
        for text in ("Buy milk", "Bake bread"):
            replica.run(create_todo, project="p", text=text)
        replica.sync()
        replica.run(create_todo, project="p", text="Sweep")
    return path


def examined(path: Path, app: App | None = None, now_ms: int | None = None) -> list[Checked]:
    with ReplicaFile(path) as file:
        return list(examine(file, now_ms or time.time_ns() // 1_000_000, app))


def findings(checked: list[Checked], level: str) -> dict[str, list[Finding]]:
    """The findings of one level by the name of their check."""
    found = {
        check.name: [finding for finding in check.findings or () if finding.level == level]
        for check in checked
    }
    return {name: some for name, some in found.items() if some}


def meddle(path: Path, plant: Plant) -> None:
    """What another program may do that switches the guards off."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    plant(connection)
    connection.close()


def sql(*statements: str) -> Plant:
    return lambda connection: [connection.execute(statement) for statement in statements]


def test_a_sound_file_has_no_fault_and_what_waits_is_told(path: Path) -> None:
    checked = examined(path, shop.app)
    assert [check.name for check in checked] == [
        *(check.name for check in (*FOUNDATIONS, *CHECKS)),
        "application",
    ]
    assert findings(checked, "fault") == {}
    [waiting] = findings(checked, "notice").pop("queue")
    assert "1 action waits to be sent" in waiting.what


AGAIN = """
    INSERT INTO synchrotron_action
        (position, order_key, record, seq, newest, unsent, changes, effects)
    SELECT
        -7, replace(order_key, '-0000-', '-00ff-'), record, {seq}, {seq}, unsent, changes, effects
    FROM synchrotron_action WHERE position = 1"""
FLOOR = "UPDATE synchrotron_replica SET floor = (SELECT max(order_key) FROM synchrotron_action)"
LATE = "UPDATE synchrotron_action SET order_key = 'f' || substr(order_key, 2) WHERE position = 1"


@pytest.mark.parametrize(
    ("plant", "check", "words"),
    [
        (sql("DROP TRIGGER synchrotron_guard_todo_insert"), "guards", "may INSERT on todo"),
        (sql("ALTER TABLE todo ADD COLUMN weight REAL"), "guards", "has altered the tables"),
        (
            sql("UPDATE synchrotron_action SET record = x'00' WHERE position = 2"),
            "log",
            "position 2",
        ),
        (sql("UPDATE synchrotron_action SET unsent = 1 WHERE position = 2"), "log", "its patches"),
        (sql("UPDATE synchrotron_action SET newest = 9 WHERE position = 2"), "log", "its patches"),
        (sql("UPDATE synchrotron_replica SET pending_from = 99"), "log", "it is stuck"),
        (
            sql(FLOOR),
            "log",
            "at or below the floor",
        ),
        (
            sql(LATE),
            "log",
            "new ones could sort before it",
        ),
        (
            sql(
                "UPDATE synchrotron_action SET position = -position",
                "UPDATE synchrotron_replica SET n = 1",
            ),
            "log",
            "it is stuck",
        ),
        (sql(AGAIN.format(seq=77)), "log", "is there 2 times"),
        (sql(AGAIN.format(seq=1)), "log", "seq 1 belongs to 2 actions"),
        (
            sql("UPDATE todo SET text = 'Buy wine' WHERE text = 'Buy milk'"),
            "rows",
            "is not what action",
        ),
        (sql("DELETE FROM todo WHERE text = 'Buy milk'"), "rows", "is not what action"),
        (sql("INSERT INTO item VALUES ('x', 1, 'secret')"), "audiences", "'secret'"),
    ],
)
def test_each_planted_fault_is_found_by_its_check_with_a_remedy(
    path: Path, plant: Plant, check: str, words: str
) -> None:
    meddle(path, plant)
    found = findings(examined(path), "fault")
    [some] = [some for name, some in found.items() if check in name]
    assert any(words in finding.what for finding in some), some
    assert all(finding.remedy for finding in some)


def test_a_damaged_page_is_found_and_what_rests_on_it_is_not_looked_at(path: Path) -> None:
    meddle(path, sql("PRAGMA wal_checkpoint(TRUNCATE)"))
    with apsw.Connection(str(path)) as connection:
        root: int = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'todo'").get
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 + 8 : root * 4096] = b"\x55" * 4088
    path.write_bytes(content)
    checked = examined(path)
    assert findings(checked, "fault").keys() == {"SQLite's integrity"}
    assert [check.name for check in checked if check.findings is not None] == [
        "libraries",
        "SQLite's integrity",
    ]


def test_a_number_that_could_be_given_again_is_found(path: Path) -> None:
    meddle(
        path,
        sql(
            "UPDATE synchrotron_action SET position = 1000 + position",
            "UPDATE synchrotron_action SET position = position - 1000 + 1 WHERE position = 1001",
            "UPDATE synchrotron_action SET position = position - 1003 WHERE position > 1001",
        ),
    )
    # Positions are 2, -1, 0 and 1 now: the next number would be 3, which is in use.
    [some] = findings(examined(path), "fault").values()
    assert any("could be given again" in finding.what for finding in some)


def test_actions_that_wait_for_a_decision_are_told_with_what_can_be_decided(tmp_path: Path) -> None:
    server = MemoryServer(shop.app, {"alice": {"all"}})
    with shop.app.open(tmp_path / "alice.db", transport=server.connect("alice")) as replica:
        replica.sync()
        server.policy = lambda user, op, table, row: False
        replica.run(shop.put_on_sale, id="cup", stock=1)
        replica.sync()
        [parked] = replica.parked()
    [told] = findings(examined(tmp_path / "alice.db"), "notice")["queue"]
    assert parked.id in told.what and "denied" in told.what
    assert "replica.retry" in told.remedy and "replica.discard" in told.remedy


def test_a_clock_that_is_off_is_told_from_both_sides(path: Path) -> None:
    with ReplicaFile(path) as file:
        newest_ms = int(file.log.last_key()[:12], 16)
    day_ms = 86_400_000
    [slow] = findings(examined(path, now_ms=newest_ms - day_ms), "notice")["clock"]
    assert "24 h after what this machine's clock says" in slow.what and "NTP" in slow.remedy
    assert "clock" not in findings(examined(path, now_ms=newest_ms), "notice")
    meddle(path, sql(f"UPDATE synchrotron_replica SET clock_offset_ms = {-3 * day_ms}"))
    [fast] = findings(examined(path, now_ms=newest_ms + 3 * day_ms), "notice")["clock"]
    assert "is 3 days fast" in fast.what


def test_rows_that_point_to_hidden_ones_are_told_and_are_no_fault(path: Path) -> None:
    meddle(path, sql("DELETE FROM synchrotron_action", "DELETE FROM project"))
    checked = examined(path)
    assert findings(checked, "fault") == {}
    told = findings(checked, "notice")["foreign keys"]
    assert any("3 rows of todo point to rows of project" in finding.what for finding in told)


def test_a_file_that_never_synced_or_had_to_leave_something_out_says_so(tmp_path: Path) -> None:
    path = tmp_path / "alice.db"
    shop.app.open(path, user="alice").close()
    [never] = findings(examined(path), "notice")["sync"]
    assert "never synced" in never.what
    meddle(path, sql("UPDATE synchrotron_replica SET left_out = 1, bootstrapped = 1"))
    [left_out] = findings(examined(path), "notice")["sync"]
    assert "upgrade the application" in left_out.remedy


def test_code_that_does_not_fit_the_file_is_a_fault_and_a_missing_action_is_told(
    path: Path,
) -> None:
    other = App("other", schema=shop.app.sources[0])
    [fault] = findings(examined(path, other), "fault")["application"]
    assert "belongs to application 'shop'" in fault.what
    older = App("shop", schema=shop.app.sources[0])
    [told] = findings(examined(path, older), "notice")["application"][:1]
    assert "create_project version 1" in told.what


def test_what_the_machine_lacks_is_told() -> None:
    assert not list(findings_of_libraries(installed=True, encrypts=True))
    [lost] = findings_of_libraries(installed=True, encrypts=False)
    assert "--force-reinstall" in lost.remedy
    assert not list(findings_of_room(10**9, 10**6))
    full, grown = findings_of_room(10**7, 10**9)
    assert (full.level, grown.level) == ("fault", "notice")


def test_only_so_many_findings_of_a_kind_are_told(tmp_path: Path) -> None:
    path = tmp_path / "alice.db"
    with shop.app.open(path, user="alice") as replica:
        replica.run(create_project, id="p")
        for n in range(30):
            replica.run(create_todo, project="p", text=str(n))
    meddle(path, sql("UPDATE todo SET text = ''"))
    [some] = findings(examined(path), "fault").values()
    assert len(some) == 11 and some[-1].what == "and 20 more of this kind"


class Examined(World):
    """A simulated world in which the doctor looks at a file after each exchange."""

    times = 0

    def taken(self, device: Device, taken: Taken, *, new_epoch: bool = False) -> None:
        super().taken(device, taken, new_epoch=new_epoch)
        if device.on_file:
            self.times += 1
            with ReplicaFile(device.path) as file:
                for check in examine(file, device._now_ms(), device.app):
                    assert not check.faulty, check


ON_FILES = [seed for seed in range(90, 120) if Trial(seed=seed)._drawn[1].files]


@pytest.mark.parametrize("seed", ON_FILES[:2])
def test_the_doctor_finds_no_fault_whatever_happens_to_a_replica(seed: int, tmp_path: Path) -> None:
    drawn = Trial(seed=seed)
    world = Examined(*drawn._drawn, seed, tmp_path)
    world.open()
    for step in drawn.steps:
        world.step(step)
    world.settle()
    world.close()
    assert world.times > 5

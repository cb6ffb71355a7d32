"""`synchrotron status`, `log`, `outcomes` and `doctor`: a replica's file, in tables or as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from synchrotron.app.definition import Definition
from synchrotron.core.canonical import text_of
from synchrotron.core.records import ActionRecord
from synchrotron.errors import UsageError
from synchrotron.inspection.doctor import Checked, examine
from synchrotron.inspection.file import ReplicaFile
from synchrotron.inspection.health import Finding, versions
from synchrotron.inspection.status import Status, read_status
from synchrotron.replica.outcomes import Outcome, outcome_of
from synchrotron.store.encryption import Key
from synchrotron.store.log import Entry

STYLES = {
    "accepted": "green",
    "pending": "yellow",
    "changed": "yellow",
    "rejected": "red",
    "parked": "bold red",
    "discarded": "dim",
}


def key_of(text: str | None, hex: str | None) -> Key | None:
    """The key that two options give. Raises `UsageError`."""
    if text and hex:
        raise UsageError("a file has one key: give --key or --hex-key")
    if hex:
        try:
            return bytes.fromhex(hex)
        except ValueError:
            raise UsageError("--hex-key wants hexadecimal digits, two for each byte") from None
    return text or None


# ---- status ------------------------------------------------------------------------------


def show_status(console: Console, path: Path, key: Key | None, *, json: bool) -> int:
    """Where a replica stands; the exit code."""
    with reading(console, path, key) as file:
        status = read_status(file)
    if json:
        print_json(console, status)
        return 0
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in _facts(status):
        grid.add_row(name, value)
    console.print(grid)
    return 0


def _facts(status: Status) -> Iterable[tuple[str, Text | str]]:
    yield "application", f"{status.app}, {_count(status.migrations, 'migration')}"
    yield "user", status.user or "nobody yet: it has seen no token"
    yield "client", status.client_id
    yield "file", _file(status)
    rows = ", ".join(f"{name} {count:,}" for name, count in status.rows.items())
    yield "rows", f"{sum(status.rows.values()):,} ({rows})"
    yield "audiences", ", ".join(status.audiences) or "none"
    yield "history", _history(status)
    yield "sync", _sync(status)
    yield "queue", _queue(status)
    states = Text(", ").join(
        Text(f"{count:,} {state}", STYLES[state]) for state, count in status.outcomes.items()
    )
    yield "outcomes", states or "no action was run here"


def _file(status: Status) -> str:
    encrypted = ", encrypted" if status.encrypted else ""
    log = f" and {_size(status.log_bytes)} of write-ahead log" if status.log_bytes else ""
    return f"{_size(status.bytes)}{log}, format {status.format}{encrypted}"


def _history(status: Status) -> str:
    since = f"after {at(status.history_after)}" if status.history_after else "from the beginning"
    newest = f", the newest of {at(status.newest)}" if status.newest else ""
    return f"{_count(status.history, 'action')} {since}{newest}"


def _sync(status: Status) -> str:
    if not status.synced:
        return "it has never synced"
    turn = "a process is syncing it now" if status.syncing else "no process is syncing it now"
    return f"everything up to seq {status.cursor:,} is in; {turn}"


def _queue(status: Status) -> Text | str:
    if not status.pending and not status.unsent:
        return "nothing to send"
    parts = []
    if status.pending:
        since = f" (since {at(status.oldest_pending)})" if status.oldest_pending else ""
        parts.append(f"{_count(status.pending, 'action')}{since}")
    if status.unsent:
        parts.append(f"corrections of {_count(status.unsent, 'action')}")
    return Text(f"to send: {', '.join(parts)}", "yellow")


# ---- log ---------------------------------------------------------------------------------


def show_log(
    console: Console, path: Path, key: Key | None, *, last: int, pending: bool, json: bool
) -> int:
    """The newest actions of the log, in order; the exit code. `last` 0: all."""
    with reading(console, path, key) as file, console.status("reading the log"):
        if pending:
            entries = file.log.pending()[-last:]
        else:
            entries = file.log.newest(last) if last else file.log.all()
        total, floor = len(file.log), file.state.server_floor
    if json:
        print_lines(console, map(_logged, entries))
        return 0
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("user", overflow="fold")
    table.add_column("action", ratio=1)
    table.add_column("rows", overflow="fold")
    table.add_column("seq", justify="right", no_wrap=True)
    for entry in entries:
        own = outcome_of(entry, floor) if entry.own else None
        seq = Text("pending", "yellow") if entry.seq is None else f"{entry.seq:,}"
        table.add_row(
            at(entry.record.now), entry.record.user, _call(entry.record, own), _touched(entry), seq
        )
    console.print(table)
    shown = "pending" if pending else f"of {total:,}"
    console.print(f"{len(entries):,} {shown}, in the one global order", style="dim")
    return 0


def _logged(entry: Entry) -> dict[str, Any]:
    """An entry for programs: the record, and what became of it here."""
    return {
        **msgspec.to_builtins(entry.record),
        "own": entry.own,
        "seq": entry.seq,
        "error": entry.error,
        "unsent": entry.unsent,
        "patches": [
            {
                "table": effect.table,
                "key": effect.key,
                "audience": effect.audience,
                "op": effect.applied.op,
                "columns": effect.applied.values,
            }
            for effect in entry.effects.values()
            if effect.applied is not None
        ],
    }


def _touched(entry: Entry) -> Text:
    """`+todo` for an insert, `~` for an update, `-` for a delete, counted where several."""
    signs = {"insert": "+", "update": "~", "delete": "-"}
    counts: dict[str, int] = {}
    for effect in entry.effects.values():
        if effect.applied is not None:
            what = f"{signs[effect.applied.op]}{effect.table}"
            counts[what] = counts.get(what, 0) + 1
    texts = [what if n == 1 else f"{what} x {n}" for what, n in counts.items()]
    return Text("\n".join(texts) or "none", "" if texts else "dim")


# ---- outcomes ----------------------------------------------------------------------------


def show_outcomes(
    console: Console, path: Path, key: Key | None, *, state: str | None, json: bool
) -> int:
    """What became of own actions, in the order of their runs; the exit code."""
    if state is not None and state not in STYLES:
        raise UsageError(f"--state {state}: choose of {', '.join(STYLES)}")
    with reading(console, path, key) as file, console.status("reading the log"):
        found = [each for each in file.outcomes() if state in (None, each[1].state)]
    found.sort(key=lambda each: each[0].order_key)
    if json:
        print_lines(console, ({**msgspec.to_builtins(o), **_told(r)} for r, o in found))
        return 0
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("action", ratio=1)
    for record, outcome in found:
        name = Text(outcome.state, STYLES[outcome.state])
        table.add_row(at(record.now), name, _call(record, outcome, with_id=True))
    console.print(table)
    console.print(f"{_count(len(found), 'action')} of this replica's own", style="dim")
    return 0


def _told(record: ActionRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "args": record.args,
        "now": msgspec.to_builtins(record.now),
    }


def _call(record: ActionRecord, outcome: Outcome | None, *, with_id: bool = False) -> Text:
    """`finish v2 todo="…"`, with what became of it on the next line where that is news."""
    version = f" v{record.version}" if record.version > 1 else ""
    args = " ".join(f"{name}={text_of(value)}" for name, value in record.args.items())
    text = Text.assemble((f"{record.name}{version}", "bold"), " ", args)
    if with_id:
        text.append(f"\n{record.id}", "dim")
    why = outcome and ": ".join(filter(None, (outcome.reason, outcome.detail)))
    if outcome is not None and why:
        shown = why if with_id else f"{outcome.state}: {why}"
        text.append(f"\n{shown}", STYLES[outcome.state])
    return text


# ---- doctor ------------------------------------------------------------------------------


def show_health(
    console: Console, path: Path, key: Key | None, definition: Definition | None, *, json: bool
) -> int:
    """Every check with its findings; the exit code: 1 where there is a fault."""
    now_ms = time.time_ns() // 1_000_000
    with reading(console, path, key) as file, console.status("looking") as status:
        syncing = file.is_synced_by_a_process()
        checked = []
        for check in examine(file, now_ms, definition, lambda name: status.update(name)):
            checked.append(check)
            if not json:
                _tell_check(console, check)
    faults = sum(finding.level == "fault" for check in checked for finding in check.findings or ())
    if json:
        report = {
            "path": str(path),
            "faults": faults,
            "syncing": syncing,
            "versions": versions(),
            "checks": checked,
        }
        print_json(console, report)
    else:
        process = "a process is" if syncing else "no process is"
        libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
        console.print(f"\n{process} syncing it now; {libraries}", style="dim")
        _tell_verdict(console, path, faults)
    return 1 if faults else 0


def _tell_check(console: Console, check: Checked) -> None:
    if check.findings is None:
        console.print(Text.assemble(("-  ", "dim"), check.name, ("  not looked at", "dim")))
        return
    levels = {finding.level for finding in check.findings}
    mark = ("✗", "bold red") if check.faulty else ("!", "yellow") if levels else ("✓", "green")
    console.print(Text.assemble(mark, "  ", check.name))
    for finding in check.findings:
        _tell_finding(console, finding)


def _tell_finding(console: Console, finding: Finding) -> None:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=5)
    grid.add_column(ratio=1)
    style = "red" if finding.level == "fault" else "yellow"
    grid.add_row("", Text(finding.what, style))
    grid.add_row("", Text.assemble(("→ ", "bold"), finding.remedy))
    console.print(grid)


def _tell_verdict(console: Console, path: Path, faults: int) -> None:
    if faults:
        console.print(f"{path}: {_count(faults, 'fault')}", style="bold red", markup=False)
    else:
        console.print(f"{path} is sound", style="bold green", markup=False)


# ---- words and numbers -------------------------------------------------------------------


def reading(console: Console, path: Path, key: Key | None) -> ReplicaFile:
    return ReplicaFile(path, key)


def print_json(console: Console, value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_lines(console: Console, values: Iterable[object]) -> None:
    """A line of JSON for each, so that a program can read them one by one."""
    for value in values:
        console.print(
            msgspec.json.encode(value).decode(), markup=False, highlight=False, soft_wrap=True
        )


def at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"

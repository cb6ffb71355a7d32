"""The checks on a replica: after each commit what it may hold, and in the end all of it."""

from __future__ import annotations

from collections.abc import Sequence, Set

from synchrotron.core.clock import FIRST, OrderKey
from synchrotron.errors import UnknownOutcome
from synchrotron.replica.engine import Ran
from synchrotron.store.effects import completed
from synchrotron.testing.oracle import RawTables, columns_of, read_tables
from synchrotron.testing.simulation.audit import Audit
from synchrotron.testing.simulation.device import Device
from synchrotron.testing.simulation.violation import Violation, differences


class Checks:
    """What every replica must keep to."""

    def __init__(self, audit: Audit, invariants: Sequence[str]) -> None:
        self._audit = audit
        self._invariants = invariants
        self._seeds: dict[str, str] = {}
        """By action id, the seed of the run that first had it."""
        self._sent: set[tuple[str, str]] = set()
        self._latest: dict[str, OrderKey] = {}
        """By device, the newest order key that its file knows."""
        self._seen: dict[str, set[str]] = {}
        """By device, what its user could see before the server was put back."""

    # ---- after each commit --------------------------------------------------------

    def ran(self, device: Device, ran: Ran) -> None:
        record = ran.record
        if record.order_key <= self._latest.get(device.name, FIRST):
            raise Violation("O1", f"{record.id} sorts before what {device.name} knew already")
        self._latest[device.name] = record.order_key
        self._check_invariants(device)

    def knows(self, device: Device) -> None:
        """Remember the newest key that a device has in its log."""
        self._latest[device.name] = device.engine.store.log.last_key()

    def was_sent(self, device: Device, seed: str) -> bool:
        return (device.name, seed) in self._sent

    def sent(self, device: Device, id: str, seed: str, *, copied: bool) -> None:
        """An action leaves its machine under an id. Copies of a file may use one id twice."""
        self._sent.add((device.name, seed))
        if not copied and self._seeds.setdefault(id, seed) != seed:
            raise Violation("O5", f"two runs were sent as {id}")

    def holds(self, device: Device, *, put_back: bool) -> None:
        """Rows that the user cannot see come from pending actions alone (S6).

        Or they could be seen before the server was `put_back`, which is yet to be noticed.
        """
        store = device.engine.store
        allowed = set(store.read_state().audiences) | self._audit.audiences(device.user)
        if put_back:
            allowed |= self._seen.get(device.name, set())
        else:
            self._seen[device.name] = set(allowed)
        for name in store.schema.tables:
            found = {
                a for (a,) in store.writer.execute(f"SELECT DISTINCT audience_key FROM {name}")
            }
            if found <= allowed:
                continue
            for entry in store.log.pending():
                allowed.update(target.audience for target in entry.effects)
            if hidden := found - allowed:
                raise Violation(
                    "S6",
                    f"{device.name} holds rows of {name} in {sorted(hidden)}, "
                    f"and its user sees {sorted(store.read_state().audiences)}",
                )
        self._check_invariants(device)

    def believes(self, device: Device) -> None:
        """What a replica takes for known of its own actions is what the server said (S3, H4)."""
        store = device.engine.store
        if store.schema.tables != self._audit.schema.tables:
            return  # it completes what it is told by the columns that it knows
        for entry in store.log.own():
            action = self._audit.stored(entry.record.id)
            for target, effect in entry.effects.items():
                if effect.known is None or action is None:
                    continue
                held = action.patches.get(target)
                table, known = store.schema.tables[target.table], held.known if held else None
                if known is None or (
                    known.seq == effect.known.seq
                    and completed(table, known.patch) != effect.known.patch
                ):
                    raise Violation(
                        "S3",
                        f"{device.name} takes {effect.known} for known of {entry.record.id} "
                        f"on {target.row}, and the server has {known}",
                    )

    def _check_invariants(self, device: Device) -> None:
        for sql in self._invariants:
            rows = device.writer.execute(sql).fetchall()
            if rows:
                raise Violation("invariant", f"on {device.name}, {sql!r} gives {rows[:3]}")

    # ---- in the end ---------------------------------------------------------------

    def converged(self, device: Device, server: RawTables) -> None:
        """Exactly the server's rows of the user's audiences (S8)."""
        schema = device.engine.store.schema
        audiences = self._audit.told(device.user, device.engine.state().audiences)
        wanted: RawTables = {}
        for name in schema.tables:
            columns = columns_of(self._audit.schema, name)
            known = [columns.index(column) for column in columns_of(schema, name)]
            at = columns.index("audience_key")
            wanted[name] = [
                tuple(row[i] for i in known) for row in server[name] if row[at] in audiences
            ]
        held = read_tables(device.writer, schema)
        if held != wanted:
            raise Violation(
                "S8",
                f"all have synced, and {device.name} does not hold the server's rows:\n"
                + differences(schema, held, wanted, "on the server"),
            )

    def outcomes(self, device: Device, *, copied: bool, forgiven: Set[str]) -> None:
        """Every run of a file has an outcome, and it is true.

        `copied`: there are or were copies of the file. `forgiven`: the seeds of what a server
        that was put back may have lost.
        """
        accepted = {record.seed: record.id for record in self._audit.history}
        for id, seed in device.runs.items():
            try:
                outcome = device.engine.outcome(id)
            except UnknownOutcome:
                raise Violation("R1", f"{device.name} has no outcome for its action {id}") from None
            here, what = outcome.state, f"{device.name} says that {id} is {outcome.state}"
            if here == "pending":
                raise Violation("drained", f"{what}, though all have synced")
            if here in ("parked", "discarded"):
                # Copies of a file may have parked what another one uploaded.
                if seed in accepted and outcome.reason not in (None, "restored") and not copied:
                    raise Violation("R4", f"{what} ({outcome.reason}), and the server has it")
                # Patches that lack someone's code may stand in the way of others' (S10).
                whole = self._audit.is_serial and self._audit.all_have_code
                if whole and outcome.reason in ("denied", "invalid", "left"):
                    raise Violation("S7", f"{what}: {outcome.reason}, {outcome.detail}")
            elif seed not in accepted and seed not in forgiven:
                raise Violation("M3", f"{what}, and the server does not have it")
        if self._audit.is_serial:
            self._rejections(device)

    def _rejections(self, device: Device) -> None:
        """An action that raises in order is `rejected`, and no other (A7, R2)."""
        for entry in device.engine.store.log.own():
            raises = self._audit.serial.raised.get(entry.record.id)
            if (entry.error is not None) != (raises is not None):
                raise Violation(
                    "R2",
                    f"for {device.name}, {entry.record.name} {entry.record.id} ends with "
                    f"{entry.error or 'no error'}; in order it gives {raises or 'no error'}",
                )

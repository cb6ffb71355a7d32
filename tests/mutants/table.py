"""The mutants: planted faults, one rule left out of a copy of the source each.

A mutant is an exact replacement. One whose text is no longer there, or is there twice, is
an error: the rule has moved, and its fault must move along. `seed` is one that is known
to notice, which the tests play; None where finding one takes a longer hunt.

Not here are rules that no history has been seen to need, so far: that an unsent correction of
its own gives an action standing; that an older known patch does not replace a newer one (two
other rules see to that); that a patch passes over a row of another audience (S9), and a row
key is in one audience at every place in history; that a parent which may be hidden is not one
that is missing (A9); that a disputed action is judged anew where others stay (S12); that seqs
rise with history within an upload (H2); that the newest commit told of counts beside the
cursor (H11: seed 277 saw it when it was drawn otherwise); that a snapshot tells of all clients
of the user, and that a former one which nobody used is theirs (O6: seeds 7441 and 7816). Tests
of their own hold them.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """An exact replacement in a file."""

    file: str
    right: str
    wrong: str


class Mutant(NamedTuple):
    """A planted fault."""

    rule: str
    file: str
    right: str
    wrong: str
    seed: int | None = None
    also: tuple[Edit, ...] = ()
    """Where other rules would make it good: these are left out too."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        return Edit(self.file, self.right, self.wrong), *self.also


MUTANTS = (
    # ---- standing and corrections ------------------------------------------------------
    Mutant(
        "no standing",
        "core/correction.py",
        "return self.unsettled or self.newest > basis",
        "return False",
        seed=3,
    ),
    Mutant(
        "always standing",
        "core/correction.py",
        "return self.unsettled or self.newest > basis",
        "return True",
        seed=1,
    ),
    Mutant(
        "a pending action before gives no standing",
        "replica/revision.py",
        "before = before.then(entry.newest, unsettled=entry.pending or entry.unsent)",
        "before = before.then(entry.newest, unsettled=entry.unsent)",
        seed=3,
    ),
    Mutant(
        "S3: what came first stays, corrections do not replace it",
        "replica/exchange.py",
        "if effect.known is not None and effect.known.seq >= patch.seq:",
        "if effect.known is not None:",
        seed=1,
    ),
    Mutant(
        "S5: a denied correction is sent again",
        "replica/exchange.py",
        "        effect.denied = True\n",
        "",
        seed=8,
    ),
    # ---- undo and replay ---------------------------------------------------------------
    Mutant(
        "undo by the latest image, not the earliest",
        "replica/ahead.py",
        "images[row] = places[-1].before[row]",
        "images[row] = places[0].before[row]",
        seed=0,
    ),
    Mutant(
        "undo from known patches, not from what was applied",
        "store/log.py",
        "                if effect.applied is not None:\n                    before.setdefault(",
        "                known = effect.known[0] if effect.known else effect.applied\n"
        "                if known is not None:\n                    before.setdefault(",
        also=(
            Edit(
                "store/log.py",
                "    before: Image | None = None\n\n\n_decode_undoing",
                "    before: Image | None = None\n    known: Any = None\n\n\n_decode_undoing",
            ),
        ),
        seed=3,
    ),
    Mutant(
        "order by arrival, not by order keys",
        "replica/revision.py",
        "        turns.sort(key=_key)\n",
        "",
        seed=2,
    ),
    Mutant(
        "a late action fast-forwards",
        "core/plan.py",
        "return Rewind(start) if start <= last else FastForward(start)",
        "return FastForward(start)",
        seed=0,
    ),
    Mutant(
        "S6: a replay writes rows that the user may not see",
        "replica/revision.py",
        "visible=target.audience in self.state.audiences",
        "visible=True",
        seed=12,
    ),
    Mutant(
        "S10: a replica corrects an action whose code it lacks",
        "replica/revision.py",
        "            return Attempt({}, may_correct=False, error=_standing_error(entry))\n"
        "        did, error",
        "            return Attempt({})\n        did, error",
        seed=26,
    ),
    Mutant(
        "S1: an answer is taken in in parts",
        "store/database.py",
        '                self._execute("ROLLBACK")\n        self._database',
        '                self._execute("COMMIT")\n        self._database',
        seed=4,
    ),
    Mutant(
        "U1: an undo is not run again, but kept as its author saw it",
        "replica/revision.py",
        "        if action is None or any(effect.foreign",
        "        if action is None or action.name == 'synchrotron:undo' or any(effect.foreign",
        seed=5,
    ),
    # ---- leaving in place --------------------------------------------------------------
    Mutant(
        "S12: what an action read does not count",
        "store/statements.py",
        "        if not statement.rests_on <= self.rested_on:\n"
        "            self.rested_on |= statement.rests_on\n",
        "",
        seed=4,
    ),
    Mutant(
        "S12: a predicate rests on the rows that it found, not on the table",
        "replica/ahead.py",
        "        return self._changed.isdisjoint(\n"
        "            read_footprint(place.footprint).tables\n"
        "        ) and self._taken_back.isdisjoint(place.before)\n",
        "        return self._taken_back.isdisjoint(place.before)\n",
        seed=0,
    ),
    Mutant(
        "S12: an action sees what comes after it",
        "replica/revision.py",
        "        while self._met_what_lies_ahead(did):",
        "        while False:",
        seed=0,
    ),
    Mutant(
        "S12: who wrote a row that was taken back stays",
        "replica/ahead.py",
        " and self._taken_back.isdisjoint(place.before)",
        "",
        seed=0,
    ),
    Mutant(
        "S12: a row is taken back while another has its UNIQUE value",
        "replica/ahead.py",
        "            found |= self._of_tables(self._unique & {row.table for row in found})\n",
        "",
        seed=37,
    ),
    # ---- taking answers in -------------------------------------------------------------
    Mutant(
        "an answer is used after the question changed",
        "replica/exchange.py",
        "        if request.question != question_of(state):\n            return Next(again=True)\n",
        "",
        seed=29,
    ),
    Mutant(
        "an answer older than the last one is taken in",
        "replica/exchange.py",
        "    return exchange.client_id == state.client_id and exchange.token in state.tokens",
        "    return True",
        seed=0,
    ),
    Mutant(
        "F6: who leaves an audience keeps its rows",
        "replica/exchange.py",
        "            self.revision.leave(audience)\n",
        "            pass\n",
        seed=15,
    ),
    # ---- identity ----------------------------------------------------------------------
    Mutant(
        "O6: a restored file goes on under its old id",
        "replica/exchange.py",
        "    state.client_id = ClientId(new_client_id(entropy))\n",
        "",
        seed=3,
    ),
    Mutant(
        "O5: an n is used again",
        "replica/revision.py",
        "        self.state.n = max(self.state.n, entry.position)\n",
        "",
        seed=15,
    ),
    Mutant(
        "O6: a renamed run does not tell its former ids",
        "replica/outcomes.py",
        "            found.append(id)\n",
        "",
        seed=26,
    ),
    Mutant(
        "O7: a request is sent before it is on the disk",
        "replica/engine.py",
        "        with self._changing_state(durable=True) as state:\n"
        "            request = make(state)",
        "        with self._changing_state() as state:\n            request = make(state)",
        seed=1,
    ),
    Mutant(
        "O1: new keys may sort before what is known",
        "store/state.py",
        "        self.clock = max(self.clock, key)\n",
        "        pass\n",
        seed=5,
    ),
    Mutant(
        "O4: a re-stamp after a lost reply",
        "replica/exchange.py",
        "        if any(entry.sent_in is not None for entry in pending):\n"
        "            return Next(again=True, upload=False)\n",
        "",
        also=(
            Edit(
                "replica/exchange.py",
                "                if stored_record.order_key != entry.key:\n"
                "                    self.revision.move(entry, stored_record.order_key)\n",
                "",
            ),
            Edit(
                "replica/exchange.py",
                "        elif entry.key != record.order_key:\n"
                "            revision.move(entry, record.order_key)\n",
                "",
            ),
        ),
        seed=65,
    ),
    # ---- floors ------------------------------------------------------------------------
    Mutant(
        "F3: pruning does not stop at pending actions",
        "replica/floors.py",
        "if entry.pending or entry.unsent or (held is not None and entry.key >= held):",
        "if held is not None and entry.key >= held:",
        seed=1,
    ),
    Mutant(
        "F4: what a snapshot names as accepted is run again",
        "replica/floors.py",
        "    accepted, pruned = set(head.accepted), set(head.pruned or ())\n",
        "    accepted, pruned = set[str](), set(head.pruned or ())\n",
        seed=25,
    ),
    Mutant(
        "H11: in a new epoch own records are not sent again",
        "replica/floors.py",
        "elif entry.pending or (new_epoch and entry.record.id not in is_there):",
        "elif entry.pending:",
        seed=4,
    ),
    Mutant(
        "H11: what left the log does not come back",
        "replica/floors.py",
        "        for record in set_aside.remembered():\n",
        "        for record in ():\n",
        seed=25,
    ),
    # ---- the server --------------------------------------------------------------------
    Mutant(
        "H3: no gate",
        "testing/gate.py",
        "        return any(self._is_news(viewer, client, cursor, id) for id in ids)",
        "        return False",
        seed=5,
    ),
    Mutant(
        "own events are left out of downloads",
        "testing/downloads.py",
        "            if seen and any(since < seq <= upto for seq in seen.seqs()):",
        "            own = seen is not None and seen.record.user == viewer.user\n"
        "            if seen and not own and any(since < seq <= upto for seq in seen.seqs()):",
        seed=0,
    ),
    Mutant(
        "H1: a refused upload is stored in part",
        "testing/exchanges.py",
        "            self._state.undo.back_to(mark)\n            self._tables.back_to_begin()\n"
        "        return answer\n\n    def _store",
        "            self._state.number(self._settings.entropy(12).hex())\n"
        "        return answer\n\n    def _store",
        seed=4,
    ),
    Mutant(
        "O6: a copy of a file is not noticed",
        "server/clients.py",
        "        if self.token not in (exchange.token, *exchange.earlier):\n"
        '            return "copy"\n',
        "",
        seed=55,
    ),
    Mutant(
        "H5: a late patch is not folded again",
        "testing/server_state.py",
        "        if added is not None and changes[-1][1] == added:",
        "        if added is not None:",
        seed=0,
    ),
    Mutant(
        "H7: patches of other audiences are sent along",
        "testing/membership.py",
        "        return {t: p for t, p in action.patches.items() if t.audience in self.audiences}",
        "        return dict(action.patches)",
        seed=2,
    ),
    Mutant(
        "F1: a snapshot leaves out what was pruned",
        "testing/downloads.py",
        "            if target in self._state.rows\n        ]\n        targets.sort",
        "            if target in self._state.rows and target not in self._state.base\n"
        "        ]\n        targets.sort",
        seed=19,
    ),
    Mutant(
        "F2: rows come as they are now, not as at the floor",
        "testing/downloads.py",
        "            row = self._state.row_through(target, floor)",
        "            row = self._state.rows.get(target)",
        seed=0,
    ),
    Mutant(
        "H11: a restored server is not noticed",
        "testing/exchanges.py",
        "        return any(seq >= state.pruned and state.token_of(seq) != token "
        "for seq, token in known)\n",
        "        return not known\n",
        seed=9,
    ),
    Mutant(
        "a reply is taken for how an action ran, though it was replayed since",
        "store/log.py",
        '_RUN_AS_IT_WAS = "seq IS NULL AND changes IS NOT NULL"',
        '_RUN_AS_IT_WAS = "seq IS NULL"',
        seed=0,
    ),
    Mutant(
        "a reply is taken for what is applied by now",
        "replica/exchange.py",
        "            effect.accepted = fingerprint(patch)\n"
        "            if effect.known is None or effect.known.seq < seq:\n"
        "                effect.known = Known(patch, seq, seq)",
        "            effect.accepted = fingerprint(effect.applied)\n"
        "            if effect.known is None or effect.known.seq < seq:\n"
        "                effect.known = Known(effect.applied, seq, seq)",
        seed=74,
    ),
    Mutant(
        "H2: a cursor passes over what is not told yet",
        "testing/downloads.py",
        "        return self._download(viewer, question, upto=end, horizon=end, "
        "newest=self._state.seq)",
        "        seq = self._state.seq\n"
        "        return self._download(viewer, question, upto=end, horizon=seq, newest=seq)",
        seed=4,
    ),
    Mutant(
        "no dedupe: a run is not known by its seed",
        "testing/server_state.py",
        "        return seed == self.seed_of(id) or seed in self.renamed.get(id, ())",
        "        return False",
        seed=8,
    ),
    Mutant(
        "H5: a fold that ignores audiences",
        "testing/server_state.py",
        "        patches = (self.patch(id, target) for _, id in islice(changes, count))\n",
        "        patches = (\n"
        "            next(p.known.patch for t, p in self.actions[id].patches.items()\n"
        "                 if t.row == target.row)\n"
        "            for _, id in islice(changes, count)\n"
        "        )\n",
        seed=0,
    ),
    Mutant(
        "H4: what a retry changes is passed over",
        "testing/exchanges.py",
        "        upload = Upload(client, viewer, new, [*retried, *request.corrections])",
        "        upload = Upload(client, viewer, new, request.corrections)",
        seed=54,
    ),
    Mutant(
        "R2: an action that raised on replay is taken for accepted",
        "replica/revision.py",
        "        entry.error = attempt.error\n",
        "",
        seed=0,
    ),
)

"""Planted faults of the PostgreSQL server: a rule left out, and the test that must notice.

The server's rules are held by tests of their own rather than by histories: a race shows only
where it is staged, and most rules of rights are about messages that no replica sends. Rules
that are kept twice (audiences by a query's condition and by row level security) have no
mutant: a fault in one of two shows nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

GLANCES = "tests/postgres/test_glances.py::"
SECURITY = "tests/postgres/test_security.py::"
FIRST_HOUR = "tests/postgres/test_first_hour.py::"
POLICIES = "tests/postgres/test_policies.py::"
INSERTING = "tests/postgres/test_inserting.py::"
GATE = "tests/testing/test_gate.py::"
MEMORY = "tests/testing/test_memory_server.py::"
UPLOADS = "tests/testing/test_uploads.py::"


class ServerMutant(NamedTuple):
    """A planted fault, and the test that turns red by it."""

    rule: str
    file: str
    right: str
    wrong: str
    test: str


SERVER_MUTANTS = (
    # ---- the gate and numbers ----------------------------------------------------------
    ServerMutant(
        "H3: no gate",
        "server/sql/upload.sql",
        "    RETURN EXISTS (\n        SELECT FROM (\n            SELECT s.order_key",
        "    RETURN false AND EXISTS (\n        SELECT FROM (\n            SELECT s.order_key",
        GATE + "test_an_upload_that_does_not_know_what_its_user_can_see_is_behind[postgres]",
    ),
    ServerMutant(
        "H3: others' corrections do not hold an upload up",
        "server/sql/upload.sql",
        "p.seq > asked_from AND p.client_id <> client",
        "false",
        GATE + "test_a_correction_by_another_client_holds_an_upload_up[postgres]",
    ),
    ServerMutant(
        "H3: the gate is asked only before the counter is taken",
        "server/sql/upload.sql",
        "    behind := synchrotron.is_behind(who, mine, client, asked_from);",
        "    behind := false;",
        "tests/postgres/test_gate.py",
    ),
    ServerMutant(
        "H3: no lease",
        "server/sql/upload.sql",
        "    INSERT INTO synchrotron.leases VALUES",
        "    RETURN;\n    INSERT INTO synchrotron.leases VALUES",
        GATE + "test_after_three_bounces_a_client_gets_a_lease_until_its_upload_is_decided"
        "[postgres]",
    ),
    ServerMutant(
        "H3: two leases on one audience",
        "server/sql/upload.sql",
        "WHERE until_ms > at_ms AND (user_id = who OR audiences && mine)",
        "WHERE false",
        GATE + "test_there_is_one_lease_at_a_time_on_any_audience[postgres]",
    ),
    ServerMutant(
        "H2: the counter is not held",
        "server/sql/upload.sql",
        "SELECT * INTO k FROM synchrotron.counter FOR UPDATE;",
        "SELECT * INTO k FROM synchrotron.counter;",
        "tests/postgres/test_gate.py",
    ),
    # ---- an upload is a whole ----------------------------------------------------------
    ServerMutant(
        "H1: a refused upload is stored in part",
        "server/exchange.py",
        '            await self._connection.execute(b"ROLLBACK TO SAVEPOINT upload")\n',
        "            pass\n",
        SECURITY + "test_of_a_refused_upload_nothing_stays_not_even_the_audience",
    ),
    ServerMutant(
        "O5: what was accepted is not remembered",
        "server/sql/upload.sql",
        "SET accepted = c.accepted + numbers",
        "SET accepted = c.accepted * numbers",
        "tests/testing/test_exchanges.py::"
        "test_what_was_accepted_is_remembered_with_its_holes[postgres]",
    ),
    ServerMutant(
        "O6: a number that was used does its work again",
        "server/sql/exchange.sql",
        "THEN\n        UPDATE synchrotron.clients AS c SET number = its_number,",
        "THEN\n        UPDATE synchrotron.clients AS c SET number = c.number,",
        SECURITY + "test_a_number_that_was_used_does_nothing",
    ),
    # ---- questions that are answered at a glance ---------------------------------------
    *(
        ServerMutant(rule, "server/sql/exchange.sql", right, wrong, GLANCES + test)
        for rule, right, wrong, test in (
            (
                "O6: a glance does not know copies",
                "AND c.token = ANY (tokens) AND",
                "AND",
                "test_of_two_copies_of_a_file_the_second_that_asks_is_superseded",
            ),
            (
                "O6: a glance answers twice",
                "AND c.number < its_number\n      AND c.token = ANY (tokens) "
                "AND c.token <> its_token",
                "AND c.token = ANY (tokens)",
                "test_a_question_that_came_before_does_nothing",
            ),
            (
                "H9: a glance does not ask whose file it is",
                "WHERE c.client_id = client AND c.user_id = who",
                "WHERE c.client_id = client",
                "test_another_users_client_id_gets_no_answer",
            ),
            (
                "H11: a glance takes any history for this one",
                "OR synchrotron.token_of(asked_from) IS DISTINCT FROM cursor_token",
                "",
                "test_a_question_from_another_history_is_of_a_new_epoch[cursor_token]",
            ),
            (
                "F2: a glance overlooks what is new",
                "    IF g.has_news OR",
                "    IF",
                "test_what_is_new_is_told",
            ),
        )
    ),
    ServerMutant(
        "H5: a row that a correction makes is taken for one that its action makes",
        "server/store.py",
        "history.made().difference(corrected)",
        "history.made()",
        "tests/postgres/test_storing.py",
    ),
    ServerMutant(
        "H5: what fails behind the rows is blamed on one of them",
        "server/live.py",
        "        if len(told.rows) < change.queries.count:\n",
        "        if told.error is not None:\n",
        "tests/postgres/test_storing.py",
    ),
    # ---- the replica's side, where no history of the simulator comes ---------------------
    ServerMutant(
        "O6: a limit makes another file of this one",
        "replica/exchange.py",
        "    if isinstance(answer, Busy | Limit):\n        return\n",
        "",
        "tests/client/test_http.py::test_a_limit_of_rate_is_waited_for",
    ),
    ServerMutant(
        "M5: one action that is too large holds up the rest",
        "replica/exchange.py",
        'if answer.name == "parts_max" or not _is_most(part):',
        "if True:",
        "tests/client/test_http.py::"
        "test_an_action_that_is_too_large_by_itself_is_parked_and_the_rest_goes_on",
    ),
    ServerMutant(
        "A7: a local trigger's refusal is taken for the action's",
        "store/guard.py",
        "if trigger is not None and trigger in local.trigger_names:",
        "if False:",
        "tests/store/test_local.py",
    ),
    ServerMutant(
        "R3: who leaves by an own action did something else",
        "replica/exchange.py",
        "if effect.audience not in present:",
        "if False:",
        "tests/replica/test_audiences.py",
    ),
    ServerMutant(
        "H9: a moment that UTC cannot spell is stored",
        "core/records.py",
        "or (self.now.tzinfo is not UTC and self.now.utcoffset() != UTC.utcoffset(None))",
        "or self.now.tzinfo is None",
        "tests/core/test_records.py",
    ),
    ServerMutant(
        "A5: an insert is judged as it was spelt",
        "server/upload.py",
        "            after = apply(before, patch)\n",
        "            after = sent_patch.values or apply(before, patch)\n",
        "tests/postgres/test_storing.py",
    ),
    # ---- rights ------------------------------------------------------------------------
    ServerMutant(
        "H1: of many actions another one than the first is named",
        "server/shadow.py",
        "for at, some in _divided(tries.all_writes()):\n",
        "for at, some in reversed(list(_divided(tries.all_writes()))):\n",
        "tests/postgres/test_many.py",
    ),
    ServerMutant(
        "H6: the shadow has no row level security",
        "server/tables.py",
        'f"ALTER TABLE {self.shadow} ENABLE ROW LEVEL SECURITY"',
        'f"ALTER TABLE {self.shadow} DISABLE ROW LEVEL SECURITY"',
        FIRST_HOUR + "test_a_stricter_policy_parks_one_action_and_the_rest_goes_on",
    ),
    ServerMutant(
        "H6: the shadow's policies are those of the installation",
        "server/sql/upload.sql",
        "SELECT p.version, p.policies_digest = synchrotron.digest_of_policies()\n",
        "SELECT p.version, true\n",
        SECURITY + "test_a_policy_that_is_changed_counts_from_the_next_upload",
    ),
    ServerMutant(
        "H6: a restrictive policy is copied as a permissive one",
        "server/sql/shadow.sql",
        "CASE WHEN it.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END",
        "'PERMISSIVE'",
        SECURITY + "test_a_policy_that_is_changed_counts_from_the_next_upload",
    ),
    ServerMutant(
        "H6: a hidden row counts as written",
        "server/tables.py",
        "WHERE w.{PLACE} IS NULL OR w.{AUDIENCE}",
        "WHERE w.{PLACE} IS NOT NULL AND w.{AUDIENCE}",
        SECURITY + "test_a_policy_that_hides_a_row_denies_what_it_passes_over",
    ),
    ServerMutant(
        "H6: a write is judged on the row as it is now",
        "server/upload.py",
        "            before = life.row_before(record.order_key)\n",
        "            before = life.row\n",
        FIRST_HOUR + "test_a_condition_on_a_row_counts_as_it_was_at_the_actions_place",
    ),
    ServerMutant(
        "H6: what a function reads counts for nothing",
        "server/sql/shadow.sql",
        "WHERE f.oid = r.id AND f.prosqlbody IS NULL",
        "WHERE false AND f.prosqlbody IS NULL",
        POLICIES + "test_an_action_is_judged_after_the_one_before_it_whatever_a_policy_reads",
    ),
    ServerMutant(
        "H6: what a policy reads of its own table counts for nothing",
        "server/sql/shadow.sql",
        "                  ) = 0)",
        "                  ) >= 0)",
        POLICIES + "test_a_policy_that_reads_its_own_table_is_judged_after_each_action",
    ),
    ServerMutant(
        "S9: the message says which audience a row is in",
        "server/tables.py",
        "WHERE w.{AUDIENCE} IS DISTINCT FROM r.{WANTED}",
        "WHERE w.{AUDIENCE} IS NULL",
        "tests/testing/test_rights.py::test_a_forged_audience_is_denied",
    ),
    ServerMutant(
        "A11: an update takes a row to another audience",
        "server/tables.py",
        'f"coalesce(r.{WANTED}, w.{AUDIENCE})"',
        'f"w.{AUDIENCE}"',
        "tests/testing/test_rights.py::test_a_forged_audience_is_denied",
    ),
    ServerMutant(
        "H6: an error of many writes together ends their upload",
        "server/upload.py",
        "        if tries.broke_off(told):",
        "        if False:",
        POLICIES + "test_a_write_that_a_policy_allows_is_stored_whatever_it_says_of_others",
    ),
    ServerMutant(
        "H5: what was told of the tries counts for the rows",
        "server/upload.py",
        "told.after(tries.queries.count)",
        "told",
        "tests/postgres/test_many.py",
    ),
    ServerMutant(
        "H7a: whoever comes may begin in an audience that others left",
        "server/sql/rights.sql",
        "WHERE audience = wanted AND (peopled OR creator <> synchrotron.user_id())",
        "WHERE audience = wanted AND creator <> synchrotron.user_id()",
        FIRST_HOUR + "test_an_audience_that_lost_all_its_members_cannot_be_taken_over",
    ),
    ServerMutant(
        "H7a: whoever comes may begin in an audience of another creator",
        "server/sql/rights.sql",
        "WHERE audience = wanted AND (peopled OR creator <> synchrotron.user_id())",
        "WHERE audience = wanted AND false",
        FIRST_HOUR + "test_a_stranger_who_makes_himself_a_member_is_denied",
    ),
    ServerMutant(
        "H7a: anyone may begin in an adopted audience without members",
        "server/adoption.py",
        "SELECT DISTINCT audience, true FROM synchrotron.targets",
        "SELECT DISTINCT audience, false FROM synchrotron.targets",
        "tests/postgres/test_adoption.py::"
        "test_nobody_can_move_into_an_adopted_audience_without_members",
    ),
    ServerMutant(
        "H8: the server's role may read what it likes",
        "server/sql/rights.sql",
        "    CREATE POLICY readers ON synchrotron.targets FOR SELECT\n"
        "        USING (audience = ANY ((SELECT synchrotron.my_audiences())::text[]));",
        "    CREATE POLICY readers ON synchrotron.targets FOR SELECT USING (true);",
        SECURITY
        + "test_the_servers_role_reads_and_inserts_only_as_the_user_may_and_writes_nothing_else",
    ),
    # ---- new rows, inserted by the user ------------------------------------------------
    ServerMutant(
        "S9: a row that the user inserts may come out in another audience",
        "server/tables.py",
        'f"WHERE t.{AUDIENCE} IS DISTINCT FROM r.{WANTED};",',
        'f"WHERE false;",',
        INSERTING + "test_of_many_new_rows_the_one_that_cannot_be_is_named_and_nothing_stays",
    ),
    ServerMutant(
        "H6: new rows are inserted by the owner",
        "server/tables.py",
        'security="INVOKER",',
        'security="DEFINER",',
        INSERTING + "test_of_many_new_rows_the_one_that_cannot_be_is_named_and_nothing_stays",
    ),
    ServerMutant(
        "H6: new rows are inserted whatever policies read of them",
        "server/upload.py",
        "            and installed.self_contained.issuperset(brought.tables)\n",
        "",
        POLICIES + "test_a_policy_that_reads_its_own_table_is_judged_after_each_action",
    ),
    ServerMutant(
        "H6: a policy for some roles counts for none",
        "server/sql/shadow.sql",
        "            p.polroles <> '{0}'\n            OR synchrotron.uses",
        "            synchrotron.uses",
        INSERTING + "test_a_policy_for_some_roles_alone_is_one_for_everyone",
    ),
    ServerMutant(
        "H6: a type that a policy uses looks at nothing",
        "server/sql/shadow.sql",
        "            OR synchrotron.uses_others('pg_catalog.pg_policy', p.oid)\n",
        "",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: no function of PostgreSQL's looks at rows",
        "server/sql/shadow.sql",
        "AND f.provolatile <> 'v'",
        "AND true",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: a subquery looks at nothing",
        "server/sql/shadow.sql",
        "RETURN position(':relid ' IN expression) > 0 OR synchrotron",
        "RETURN synchrotron",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: a check looks at nothing",
        "server/sql/shadow.sql",
        "            synchrotron.uses_others('pg_catalog.pg_constraint', k.oid)\n            OR ",
        "            false AND ",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: a trigger that came later is not noticed",
        "server/sql/shadow.sql",
        "k.checks, g.triggers,",
        "k.checks,",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: a check in place of another is not noticed",
        "server/sql/shadow.sql",
        "c.relhasrules, k.checks,",
        "c.relhasrules, c.relchecks,",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H7: policies on what memberships are read from are not noticed",
        "server/sql/shadow.sql",
        "'members', c.oid, c.relrowsecurity,",
        "'members', c.oid,",
        INSERTING + "test_row_level_security_on_a_table_that_memberships_are_read_from_is_noticed",
    ),
    ServerMutant(
        "H6: a function of anyone's in our schema looks at nothing",
        "server/sql/shadow.sql",
        "            AND f.proname IN ('user_id', 'my_audiences', 'audiences_of', 'may_begin', "
        "'may_write')\n",
        "",
        INSERTING + "test_what_may_look_at_other_rows_has_them_judged_in_the_shadow",
    ),
    ServerMutant(
        "H6: policies may change between being looked at and being asked",
        "server/sql/upload.sql",
        "        EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', its_table);\n",
        "        NULL;\n",
        INSERTING + "test_a_policy_that_is_altered_while_an_upload_waits_for_its_table_counts",
    ),
    ServerMutant(
        "H6: a policy's two clauses are one to the digest",
        "server/sql/shadow.sql",
        "coalesce(p.polqual::text, '-'), coalesce(p.polwithcheck::text, '-')",
        "p.polqual::text, p.polwithcheck::text",
        SECURITY + "test_a_policy_whose_clause_moves_counts_from_the_next_upload",
    ),
    ServerMutant(
        "H2: who inserts rows changes no rights",
        "server/upload.py",
        "        self._written_tables.update(brought.tables)\n",
        "",
        INSERTING + "test_new_rows_on_which_rights_to_others_depend_change_rights",
    ),
    ServerMutant(
        "H6: what was installed meanwhile is not looked at again",
        "server/exchange.py",
        "        if entered.installed != self._installed.version:\n",
        "        if False:\n",
        INSERTING + "test_a_policy_that_another_server_copied_meanwhile_counts",
    ),
    ServerMutant(
        "H1: of an upload that only inserts, what is refused is left out",
        "server/upload.py",
        "            if not denied:\n                yield (",
        "            if True:\n                yield (",
        SECURITY + "test_records_that_cannot_be_stored_are_denied",
    ),
    # ---- what leaves -------------------------------------------------------------------
    ServerMutant(
        "H7: everyone sees every audience",
        "server/sql/rights.sql",
        'SELECT audience COLLATE "C" FROM synchrotron.members WHERE user_id = who',
        'SELECT audience COLLATE "C" FROM synchrotron.members',
        "tests/testing/test_membership.py::"
        "test_a_user_receives_patches_in_their_audiences_and_the_records_of_declared_ones[postgres]",
    ),
    ServerMutant(
        "F2: rows come as they are now, not as at the replica's floor",
        "server/download.py",
        "values = fold(_values(base), histories.get(place, ()))",
        "values = _values(present)",
        "tests/testing/test_downloads.py::"
        "test_an_event_at_or_below_the_replicas_floor_comes_as_the_rows_it_touches_there[postgres]",
    ),
    ServerMutant(
        "F5: pruning keeps an old base",
        "server/sql/retention.sql",
        "UPDATE synchrotron.targets AS t SET base = t.present FROM settled AS s",
        "UPDATE synchrotron.targets AS t SET base = t.base FROM settled AS s",
        MEMORY + "test_pruning_everything_keeps_rows_that_later_actions_change[postgres]",
    ),
    ServerMutant(
        "F3: a replica from before what was pruned is told nothing",
        "server/sql/retention.sql",
        "    UPDATE synchrotron.counter SET floor = new_floor, pruned = greatest(\n"
        "        pruned,\n",
        "    UPDATE synchrotron.counter SET floor = new_floor, pruned = least(\n        pruned,\n",
        MEMORY + "test_a_replica_that_missed_what_was_pruned_is_sent_to_rebase[postgres]",
    ),
    ServerMutant(
        "H10: a commit wakes nobody",
        "server/sql/upload.sql",
        "        PERFORM pg_notify('synchrotron', notice || its_seq || '}');\n",
        "",
        "tests/postgres/test_commits.py::"
        "test_readers_of_another_process_are_woken_by_what_they_can_see",
    ),
    ServerMutant(
        "H10: what is committed while a reader looks is missed",
        "server/notify.py",
        "if audiences is None or self.is_looking:",
        "if audiences is None:",
        "tests/postgres/test_commits.py::test_what_is_committed_while_a_reader_looks_is_not_missed",
    ),
    ServerMutant(
        "F6: who joins is not woken",
        "server/store.py",
        "if changes_rights or len(",
        "if len(",
        "tests/postgres/test_commits.py::test_who_joins_or_leaves_an_audience_is_woken",
    ),
    # ---- the live tables ---------------------------------------------------------------
    ServerMutant(
        "H5: foreign keys are checked when PostgreSQL likes",
        "server/tables.py",
        '"" if deferred else " DEFERRABLE INITIALLY DEFERRED",',
        '"",',
        "tests/postgres/test_install.py::"
        "test_foreign_keys_are_deferred_and_cascade_nothing_in_the_server",
    ),
    ServerMutant(
        "H5: a late patch is not folded again",
        "server/history.py",
        "            self.row = fold(self.start, (self.patches[k] for k in self.keys))\n",
        "            self.row = apply(self.row, patch)\n",
        UPLOADS + "test_a_late_action_alone_changes_only_its_place_in_history[postgres]",
    ),
)

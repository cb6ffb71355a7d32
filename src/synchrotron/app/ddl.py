"""Schema SQL, read as far as needed to refuse and to complete it; SQLite understands the rest.

An author writes what SQLite and PostgreSQL both take: CREATE TABLE, CREATE INDEX and, in
migrations, ALTER TABLE … ADD COLUMN. Here such a script is cut into statements, and a
statement into tokens, so that text can be put in at the right places (`CreateTable.complete`)
and the author's own text, comments and all, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

from synchrotron.errors import SchemaError

_TOKEN = re.compile(
    r"""
      (?P<space>  \s+ | --[^\n]* | /\*.*?\*/ )
    | (?P<string> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] )
    | (?P<number> (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? )
    | (?P<word>   [^\W\d][\w$]* )
    | (?P<symbol> \|\| | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

NEW_ID = "synchrotron_new_id_synced_tables_are_changed_only_in_actions_with_replica_run"
"""The function that makes a key left out of an INSERT. To another program, which lacks it,
its name is the remedy."""

# What PostgreSQL reserves and SQLite takes as a name. (What SQLite reserves it refuses itself.)
_words = re.compile(r"\w+").findall
_RESERVED = frozenset(
    _words("""
    analyse analyze any array asc asymmetric authorization binary both cast collation column
    concurrently cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user desc do end false fetch for freeze full grant ilike initially
    inner lateral leading left like localtime localtimestamp natural offset only outer overlaps
    placing right session_user similar some symmetric tablesample trailing true user variadic
    verbose window with
    """)
)
_CONSTRAINTS = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"})
_CLOCKS = frozenset({"CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"})
_CLOCK_FUNCTIONS = frozenset(
    _words("""
    NOW DATE TIME DATETIME JULIANDAY UNIXEPOCH STRFTIME TIMEDIFF CLOCK_TIMESTAMP
    RANDOM RANDOMBLOB GEN_RANDOM_UUID UUID_GENERATE_V4 NEXTVAL
    """)
)


class Token(NamedTuple):
    """A piece of SQL that means something; comments and spaces do not."""

    kind: str
    """string, quoted, number, word or symbol."""
    text: str
    word: str
    """A word in upper case, or a symbol; empty for what is quoted, and for numbers."""
    start: int
    end: int
    depth: int
    """How many parentheses are open around it. They themselves lie outside."""


@lru_cache(1024)  # each connection asks of the same statements
def tokens_of(sql: str) -> tuple[Token, ...]:
    """Raises `SchemaError` for a quote without an end."""
    return tuple(_tokens(sql))


def _tokens(sql: str) -> Iterator[Token]:
    depth = 0
    for match in _TOKEN.finditer(sql):
        kind, text = match.lastgroup or "", match.group()
        if kind == "space":
            continue
        if kind == "symbol" and text in "'\"`[":
            raise SchemaError(f"the quote that opens here has no end: {sql[match.start() :][:60]}")
        depth -= text == ")"
        word = text.upper() if kind in ("word", "symbol") else ""
        yield Token(kind, text, word, match.start(), match.end(), depth)
        depth += text == "("


class Statement(NamedTuple):
    """One statement, without its semicolon."""

    text: str
    tokens: tuple[Token, ...]


def split(script: str) -> Iterator[Statement]:
    """The statements of a script."""
    start: int | None = None
    end = 0
    for token in (*tokens_of(script), None):
        if token is not None and token.word != ";":
            start, end = token.start if start is None else start, token.end
        elif start is not None:
            text = script[start:end]
            yield Statement(text, tuple(tokens_of(text)))
            start = None


def check_name(name: str, what: str) -> None:
    """Refuse a name that would need quotes, or that the two databases take differently."""
    if not _NAME.fullmatch(name):
        raise SchemaError(
            f"{what} {name}: write names in lower case without quotes: a-z, 0-9 and _, at most 63 "
            "(PostgreSQL folds case, SQLite keeps it)"
        )
    if name.startswith(("synchrotron_", "sqlite_")):
        raise SchemaError(f"{what} {name}: names that begin so are reserved; take another one")
    if name in _RESERVED:
        raise SchemaError(f"{what} {name}: a reserved word in PostgreSQL; take another name")


# --- Definitions: a column, or a constraint of the table ------------------------------


@dataclass(frozen=True)
class Definition:
    """A column's definition, or a table constraint."""

    tokens: tuple[Token, ...]

    @cached_property
    def top(self) -> tuple[Token, ...]:
        """Its tokens without what stands in parentheses, which themselves stay."""
        return tuple(token for token in self.tokens if token.depth == self.tokens[0].depth)

    @property
    def column(self) -> str | None:
        """The column's name as it is written; None for a table constraint."""
        first = self.tokens[0]
        return None if first.word in _CONSTRAINTS else first.text

    def has(self, *words: str) -> bool:
        return _find(self.top, words) is not None

    @property
    def expression(self) -> tuple[Token, ...] | None:
        """What a generated column is generated from, without the parentheses."""
        found = _find(self.top, ("AS", "(", ")"))
        if found is None:
            return None
        start, end = self.top[found + 1].end, self.top[found + 2].start
        return tuple(token for token in self.tokens if start <= token.start < end)

    @property
    def end(self) -> int:
        return self.tokens[-1].end

    def deferrals(self) -> Iterator[int]:
        """Where its foreign keys end that do not say DEFERRABLE yet.

        Raises `SchemaError` for any other clause of that kind.
        """
        words = [token.word for token in self.top]
        good = set()
        for at, word in enumerate(words):
            if word != "REFERENCES":
                continue
            end = _end_of_reference(words, at)
            if words[end : end + 3] == ["DEFERRABLE", "INITIALLY", "DEFERRED"]:
                good.add(end)
            else:
                yield self.top[end - 1].end
        if stray := [w for i, w in enumerate(words) if w == "DEFERRABLE" and i not in good]:
            raise SchemaError(
                f"{stray[0]}: leave it out. Foreign keys are DEFERRABLE INITIALLY DEFERRED here: "
                "they are checked at the end of an action; other constraints at every statement"
            )


def _end_of_reference(words: Sequence[str], at: int) -> int:
    """The index behind a clause REFERENCES table (columns) ON … , which begins at `at`."""
    at += 2
    if words[at : at + 1] == ["("]:
        at += 2
    while words[at : at + 1] == ["ON"]:
        # CASCADE and RESTRICT are one word; SET NULL, SET DEFAULT and NO ACTION are two.
        at += 3 if words[at + 2] in ("CASCADE", "RESTRICT") else 4
    return at


def _find(tokens: Sequence[Token], words: Sequence[str]) -> int | None:
    """Where these words follow one another for the first time."""
    for at in range(len(tokens) - len(words) + 1):
        if all(tokens[at + i].word == word for i, word in enumerate(words)):
            return at
    return None


# --- Statements ----------------------------------------------------------------------


@dataclass(frozen=True)
class CreateTable:
    """CREATE TABLE name (definition, …)."""

    statement: Statement

    @property
    def name(self) -> str:
        return self.statement.tokens[2].text

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        parts: list[list[Token]] = [[]]
        for token in self.statement.tokens[4:-1]:
            if token.word == "," and token.depth == 1:
                parts.append([])
            else:
                parts[-1].append(token)
        return tuple(Definition(tuple(part)) for part in parts)

    def complete(self, new_id_column: str | None) -> str:
        """The statement as SQLite runs it.

        WITHOUT ROWID, so that a scan's order depends on the content alone (A3); foreign keys
        are checked at the end of the action (A9); a key that an INSERT leaves out is made by
        the context (A3).
        """
        places = [(self.statement.tokens[-1].end, " WITHOUT ROWID")]
        for definition in self.definitions:
            places += _deferred(definition)
            if new_id_column is not None and definition.column == new_id_column:
                places.append((definition.end, f" DEFAULT ({NEW_ID}('{self.name}'))"))
        return _put_in(self.statement.text, places)


@dataclass(frozen=True)
class AddColumn:
    """ALTER TABLE name ADD [COLUMN] definition."""

    statement: Statement

    @property
    def name(self) -> str:
        return self.statement.tokens[2].text

    @cached_property
    def definition(self) -> Definition:
        tokens = self.statement.tokens
        return Definition(tokens[5 if tokens[4].word == "COLUMN" else 4 :])

    def complete(self) -> str:
        """The statement as SQLite runs it."""
        return _put_in(self.statement.text, list(_deferred(self.definition)))


@dataclass(frozen=True)
class CreateIndex:
    """CREATE [UNIQUE] INDEX name ON …; SQLite runs it as it is."""

    statement: Statement

    @property
    def name(self) -> str:
        return self.statement.tokens[3 if self.statement.tokens[1].word == "UNIQUE" else 2].text


SchemaStatement: TypeAlias = CreateTable | AddColumn | CreateIndex


def _deferred(definition: Definition) -> Iterator[tuple[int, str]]:
    for position in definition.deferrals():
        yield position, " DEFERRABLE INITIALLY DEFERRED"


def _put_in(text: str, places: list[tuple[int, str]]) -> str:
    # From the end, so that the positions before stay true. Of two at one place the later goes last.
    in_order = sorted(places, key=lambda place: place[0])
    for position, addition in reversed(in_order):
        text = text[:position] + addition + text[position:]
    return text


def read(statement: Statement) -> SchemaStatement:
    """What a statement of the schema is. Raises `SchemaError` for what cannot stand there.

    Only words are looked at: whether it is SQL, SQLite says.
    """
    _refuse_unshared(statement.tokens)
    words = [token.word for token in statement.tokens]
    match words:
        case ["CREATE", "TABLE" | "INDEX", "IF", *_] | ["CREATE", "UNIQUE", "INDEX", "IF", *_]:
            raise SchemaError("IF NOT EXISTS: leave it out. The system knows what it has created")
        case ["CREATE", "TABLE", _, "AS", *_]:
            raise SchemaError("CREATE TABLE … AS: declare the columns; rows are made by actions")
        case ["CREATE", "TABLE", _, "(", *_]:
            _refuse_table_options(statement.tokens)
            return CreateTable(_named(statement, "table", 2))
        case ["CREATE", "INDEX", *_]:
            return CreateIndex(_named(statement, "index", 2))
        case ["CREATE", "UNIQUE", "INDEX", *_]:
            return CreateIndex(_named(statement, "index", 3))
        case ["ALTER", "TABLE", _, "ADD", word, *_] if word not in _CONSTRAINTS:
            return AddColumn(_named(statement, "table", 2))
        case ["CREATE", "TEMP" | "TEMPORARY", "TABLE", *_]:
            raise SchemaError("CREATE TEMP TABLE: every table here is synced; see App(local=…)")
        case ["CREATE", "TABLE", _, ".", *_]:
            raise SchemaError("CREATE TABLE: leave out what stands before the point in the name")
        case ["CREATE", *rest] if local := {"TRIGGER", "VIEW", "VIRTUAL"} & set(rest[:3]):
            raise SchemaError(
                f"CREATE {local.pop()}: it cannot stand in the schema. What derives from synced "
                "rows belongs in App(local=…); what all replicas share is written by actions"
            )
        case _:
            raise SchemaError(
                "the schema consists of CREATE TABLE and CREATE INDEX (and, in migrations, "
                f"ALTER TABLE … ADD COLUMN), not of: {statement.text[:80]}"
            )


def _named(statement: Statement, what: str, at: int) -> Statement:
    for token in statement.tokens[at : at + 1]:
        check_name(token.text, what)
    return statement


def _refuse_table_options(tokens: Sequence[Token]) -> None:
    close = next((i for i, t in enumerate(tokens) if t.word == ")" and t.depth == 0), len(tokens))
    if options := " ".join(token.text for token in tokens[close + 1 :]):
        raise SchemaError(
            f"{options}: leave it out. PostgreSQL does not take it, and synced tables are "
            "WITHOUT ROWID on SQLite as it is"
        )


def _refuse_unshared(tokens: Sequence[Token]) -> None:
    """Refuse what would be different in two databases, or at two moments."""
    words = ["", *(token.word for token in tokens), ""]
    for before, token, following in zip(words, tokens, words[2:], strict=False):
        word = token.word
        # `date (…)` is a call, except where a table of that name is declared or referred to.
        called = following == "(" and token.depth > 0 and before != "REFERENCES"
        if word in _CLOCKS or (word in _CLOCK_FUNCTIONS and called):
            raise SchemaError(
                f"{word}: a schema knows neither clock nor dice. Let the action write "
                "ctx.now, ctx.random or ctx.new_id(…) into the row"
            )
        if word == "COLLATE":
            raise SchemaError(
                f"COLLATE {following}: leave it out. SQLite and PostgreSQL share no collation; "
                "for a key that ignores case store lower(x)"
            )
        if word == "AUTOINCREMENT":
            raise SchemaError(
                "AUTOINCREMENT: two replicas would take the same number. Write id TEXT PRIMARY "
                "KEY, and the system makes the ids"
            )
        if word == "MATCH" and following in ("FULL", "PARTIAL", "SIMPLE"):
            raise SchemaError(f"MATCH {following}: leave it out; SQLite does not know it")
        if (word, following) == ("ON", "CONFLICT"):
            raise SchemaError(
                "ON CONFLICT: PostgreSQL does not take it in a constraint; "
                "write INSERT … ON CONFLICT in the action"
            )


_COMPLETIONS = (
    ["WITHOUT", "ROWID"],
    ["DEFERRABLE", "INITIALLY", "DEFERRED"],
    ["DEFAULT", "(", NEW_ID.upper(), "(", "", ")", ")"],
)


def as_written(text: str) -> str:
    """A statement of a replica's file without what `complete` put in."""
    [statement] = split(text)
    tokens = statement.tokens
    words = [token.word for token in tokens]
    for at in reversed(range(len(tokens))):
        for completion in _COMPLETIONS:
            if words[at : at + len(completion)] == completion:
                text = text[: tokens[at].start] + text[tokens[at + len(completion) - 1].end :]
    return text

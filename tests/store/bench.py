"""An application whose one action runs the statements that it is given."""

from __future__ import annotations

from typing import Any

from synchrotron import App, Context, Replica

SCHEMA = """
    CREATE TABLE item (
        id TEXT PRIMARY KEY,
        n INTEGER,
        x DOUBLE PRECISION,
        note TEXT,
        code TEXT UNIQUE,
        data BYTEA,
        parent TEXT REFERENCES item (id) ON DELETE CASCADE,
        label TEXT GENERATED ALWAYS AS ('#' || id) STORED,
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED
    );
    CREATE TABLE pair (
        a TEXT,
        b BIGINT,
        v INTEGER NOT NULL DEFAULT 7 CHECK (v < 1000),
        audience_key TEXT GENERATED ALWAYS AS ('all') STORED,
        PRIMARY KEY (b, a)
    );
"""


def make_application(schema: str = SCHEMA, **options: Any) -> App:
    app = App("bench", schema=schema, **options)

    @app.action
    def do(ctx: Context, *, statements: list[str], swallow: bool = False) -> Any:
        """Give the rows of the last statement; with `swallow` an error for its rows."""
        rows: Any = []
        for statement in statements:
            try:
                rows = ctx.execute(statement)
            except Exception as error:
                if not swallow:
                    raise
                rows = error
        return rows

    return app


def run_statements(replica: Replica, *statements: str, swallow: bool = False) -> Any:
    action = replica._definition.actions["do", 1]
    return replica.run(action, statements=list(statements), swallow=swallow).result


def sent_patches(replica: Replica) -> dict[tuple[Any, ...], Any]:
    """The last action's patches as they would be sent: (table, *key) to op and values."""
    request = replica._engine.ask()
    return {
        (patch.table, *patch.key): (patch.op, patch.values) for patch in request.actions[-1].patches
    }

"""SQLAlchemy 2 in actions: models as the schema, Core constructs, a Session.

    class Todo(Base): ...                                  # audience_key: Computed(…)
    app = App("todo", schema=Base.metadata)

    @app.action
    def finish(ctx: Context, *, id: str) -> None:
        ctx.session.get_one(Todo, id).done = True          # flushed at the action's end
        ctx.execute(update(Todo).where(…).values(…))       # list[Row], as for SQL

SQLAlchemy works on the action's own connection and transaction, through a driver that
hands each statement to what `ctx.execute` runs: the same rules, capture and forms of
values. It is installed with the extra `sqlalchemy`; nothing else imports it, or this.

In reading order: `columns`, `driver`, `dialect`, `models`, `work`.
"""

from synchrotron.ext.sqlalchemy.models import adopt
from synchrotron.ext.sqlalchemy.work import Bridge

__all__ = ["Bridge", "adopt"]

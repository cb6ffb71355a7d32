"""An application on SQLAlchemy's models, as its author would write it."""

from __future__ import annotations

import enum
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Computed,
    DateTime,
    Enum,
    ForeignKey,
    Numeric,
    String,
    UniqueConstraint,
    false,
    func,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from synchrotron import App, Context


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    GLAD = "glad"
    GLUM = "glum"


class Author(Base):
    __tablename__ = "author"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    audience_key: Mapped[str] = mapped_column(Computed("'all'"))
    posts: Mapped[list[Post]] = relationship(
        back_populates="author", order_by="Post.title", cascade="all, delete-orphan"
    )


class Post(Base):
    __tablename__ = "post"
    __table_args__ = (
        CheckConstraint("length(title) > 0", name="post_has_title"),
        UniqueConstraint("author_id", "title"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    author_id: Mapped[str] = mapped_column(ForeignKey("author.id", ondelete="CASCADE"), index=True)
    title: Mapped[str]
    published: Mapped[bool] = mapped_column(server_default=false())
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    day: Mapped[date | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    score: Mapped[float | None]
    tags: Mapped[list[Any] | dict[str, Any] | None] = mapped_column(JSON)
    cover: Mapped[bytes | None]
    mood: Mapped[Mood | None] = mapped_column(Enum(Mood, native_enum=False))
    changed: Mapped[datetime | None] = mapped_column(onupdate=func.now())
    audience_key: Mapped[str] = mapped_column(Computed("'all'"))
    author: Mapped[Author] = relationship(back_populates="posts")


app = App("blog", schema=Base.metadata)


@app.action(audience="all")
def sign_up(ctx: Context, *, name: str, titles: list[str]) -> str:
    author = Author(name=name, posts=[Post(title=title) for title in titles])
    ctx.session.add(author)
    ctx.session.flush()
    return author.id


@app.action(audience="all")
def publish(ctx: Context, *, title: str) -> None:
    post = ctx.session.scalars(select(Post).where(Post.title == title)).one()
    post.published = True
    post.at = ctx.now


@app.action(audience="all")
def price_all(ctx: Context, *, price: Decimal) -> int:
    ctx.execute(update(Post).where(Post.published).values(price=price))
    return len(ctx.execute(select(Post.id).where(Post.price == price)))

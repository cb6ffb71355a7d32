"""What the site takes from the code, so that it cannot go stale: commands and settings.

A page holds `<!-- commands -->` or `<!-- settings -->` where they belong.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import typer

from synchrotron.cli import main
from synchrotron.server.settings import PREFIX, Settings


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for each page."""
    for name, make in {"commands": commands, "settings": settings}.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(make()))
    return markdown


def commands() -> Iterator[str]:
    """Each command with its help, arguments and options."""
    group: Any = typer.main.get_command(main)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"## {name}\n"
        yield f"```console\n$ synchrotron {name}{usage(command)}\n```\n"
        yield inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"
        rows = [row for parameter in command.params if (row := described(parameter))]
        if rows:
            yield "| | | default |\n|---|---|---|"
            yield from rows
            yield ""


def usage(command: Any) -> str:
    names = [placeholder(p) for p in command.params if not is_option(p)]
    required = [f"{p.opts[0]} …" for p in command.params if is_option(p) and p.required]
    return "".join(f" {part}" for part in (*names, *required))


def placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def described(parameter: Any) -> str | None:
    """A row of the table; None for `--help`."""
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return None
    if is_option(parameter):
        title = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    else:
        title = f"`{placeholder(parameter)}`"
    help = (parameter.help or "").replace("|", "\\|")
    if parameter.envvar:
        help = f"{help} `{parameter.envvar}`".strip()
    return f"| {title} | {help} | {shown(parameter)} |"


def shown(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if default is None or default is False or callable(default) else f"`{default}`"


def settings() -> Iterator[str]:
    """Each setting of the server: variable, default and the docstring that stands under it."""
    yield "| option of `asgi` | environment variable | default | |\n|---|---|---|---|"
    defaults = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
    for name, text in field_docstrings(Settings).items():
        default = "" if defaults[name] is None else f"`{defaults[name]}`"
        yield f"| `{name}` | `{PREFIX}{name.upper()}` | {default} | {text} |"


def field_docstrings(struct: type) -> dict[str, str]:
    """The string under each field of a class."""
    [definition] = ast.parse(inspect.getsource(struct)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) else ""  # type: ignore[attr-defined]
            found[field.target.id] = " ".join(str(text).split())
    return found

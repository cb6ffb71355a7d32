"""Actions: deterministic functions whose runs are recorded and replayed.

A signature is checked when the action is defined, arguments when it is run. They are
stored as canonical JSON (A5), and the function is always called with what that JSON
reads back as: the first run sees exactly what every replay will see.
"""

from __future__ import annotations

import inspect
import re
import string
import typing
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import msgspec

from synchrotron.app.context import Context
from synchrotron.core.canonical import canonical, check_form, decode, text_of
from synchrotron.core.ids import Audience
from synchrotron.errors import ActionDefinitionError, ArgumentError

P = ParamSpec("P")
R = TypeVar("R")
Templates = str | Sequence[str] | Callable[..., str | Sequence[str]]
"""What audiences an action declares: a template over its arguments, several, or a function."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,99}")
_PLAIN = (str, int, bool, float)
_KEYWORD_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments(msgspec.Struct, frozen=True):
    """The arguments of one run."""

    json: dict[str, Any]
    """By name, as JSON's own types: what the record keeps."""
    values: dict[str, Any]
    """By name, as the function's own types: what that JSON reads back as."""


class Action(Generic[P, R]):
    """A registered action: a name, a version and a function.

    Calling one action from another makes it part of that action: only the outermost
    is recorded.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Context, P], R],
        *,
        name: str | None = None,
        version: int = 1,
        audience: Templates | None = None,
    ) -> None:
        self.function = function
        self.name = function.__name__ if name is None else name
        self.version = version
        self.sampler: Callable[..., dict[str, Any] | None] | None = None
        self.__doc__ = function.__doc__
        self._check_identity()
        self._names, self._arguments = _signature(self.title, function)
        self._types = {f.name: f.type for f in msgspec.structs.fields(self._arguments)}
        self._plain = all(type in _PLAIN for type in self._types.values())
        self._decode = msgspec.json.Decoder(self._arguments).decode
        self._declare = _declaration(self.title, audience, self._names)

    @property
    def title(self) -> str:
        """How errors name it."""
        return f"action {self.name!r} (version {self.version})"

    def __call__(self, ctx: Context, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(ctx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.title}>"

    def sample(self, function: Callable[..., dict[str, Any] | None]) -> Callable[..., Any]:
        """Register what makes arguments for simulations: `(rng, query) -> dict`, or None."""
        self.sampler = function
        return function

    # ---- arguments ----------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Check arguments against the signature. Defaults are filled in.

        Raises `ArgumentError`.
        """
        if args:
            kwargs = self._by_name(args, kwargs)
        try:
            # The common case, without the way round: plain values read back as they are, and
            # most are texts with nothing in them that canonical JSON may refuse.
            if self._plain and self._are_all(kwargs):
                for value in kwargs.values():
                    if not (type(value) is str and value.isascii() and "\0" not in value):
                        check_form(kwargs)
                        break
                return Arguments(kwargs, kwargs)
            converted = msgspec.convert(kwargs, self._arguments)
            # As JSON's own types, so that what has no canonical form is found within.
            return self.arguments(decode(canonical(msgspec.to_builtins(converted, str_keys=True))))
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise ArgumentError(self._explain(error)) from error

    def _are_all(self, kwargs: dict[str, Any]) -> bool:
        """Whether no argument is missing, too many, or to be converted."""
        return {name: type(value) for name, value in kwargs.items()} == self._types

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._names):
            raise ArgumentError(
                f"{self.title} takes {len(self._names)} arguments, {len(args)} were given"
            )
        named = dict(zip(self._names, args, strict=False))
        if twice := named.keys() & kwargs.keys():
            raise ArgumentError(f"{self.title}: {min(twice)!r} was given twice")
        return named | kwargs

    def _explain(self, error: Exception) -> str:
        takes = ", ".join(self._names) or "no arguments"
        return f"{self.title}: {error}. It takes: {takes}"

    def arguments(self, json: dict[str, Any]) -> Arguments:
        """Arguments from a record, which keeps them as JSON."""
        try:
            if self._plain:
                found = msgspec.convert(json, self._arguments)
            else:
                found = self._decode(text_of(json))
            return Arguments(json, msgspec.structs.asdict(found))
        except msgspec.ValidationError as error:
            raise ArgumentError(self._explain(error)) from error

    # ---- audiences ----------------------------------------------------------------

    def audiences(self, arguments: Arguments) -> tuple[Audience, ...] | None:
        """The audiences that a run with these arguments declares (A10); None for none.

        Raises `ArgumentError` where the declaration cannot be made from them.
        """
        if self._declare is None:
            return None
        try:
            declared = self._declare(arguments.values)
        except Exception as error:
            raise ArgumentError(f"{self.title}: its audience cannot be made: {error}") from error
        if isinstance(declared, str) and declared:
            return (Audience(declared),)
        names = list(declared)
        if not all(isinstance(name, str) and name for name in names):
            raise ArgumentError(f"{self.title}: an audience is not a non-empty string: {names}")
        return tuple(sorted({Audience(name) for name in names}))

    def _check_identity(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ActionDefinitionError(
                f"{self.name!r} cannot name an action: give it a name, @app.action(name=…)"
            )
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise ActionDefinitionError(f"{self.title}: versions are whole numbers from 1")


def _signature(
    title: str, function: Callable[..., Any]
) -> tuple[tuple[str, ...], type[msgspec.Struct]]:
    """The names and the validating type of an action's arguments, without the context."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ActionDefinitionError(
            f"{title} is async: an action runs at once within a transaction; use plain def"
        )
    if inspect.isgeneratorfunction(function):
        raise ActionDefinitionError(f"{title} is a generator: it would not run; return instead")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ActionDefinitionError(f"{title}: its first parameter must be the context, ctx")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ActionDefinitionError(
            f"{title}: a type hint cannot be found ({error}); import it where the action is defined"
        ) from error
    fields = [_field(title, parameter, hints) for parameter in parameters[1:]]
    arguments = msgspec.defstruct(
        "Arguments", fields, kw_only=True, forbid_unknown_fields=True, frozen=True
    )
    _check_types(title, arguments)
    return tuple(p.name for p in parameters[1:]), arguments


def _field(
    title: str, parameter: inspect.Parameter, hints: dict[str, Any]
) -> tuple[str, Any] | tuple[str, Any, Any]:
    name = parameter.name
    if parameter.kind not in _KEYWORD_KINDS:
        raise ActionDefinitionError(
            f"{title}: parameter {name!r} has no name to store its argument by: "
            "*args, **kwargs and positional-only parameters cannot be recorded"
        )
    if name not in hints:
        raise ActionDefinitionError(
            f"{title}: parameter {name!r} has no type: write {name}: str, for example"
        )
    if parameter.default is inspect.Parameter.empty:
        return (name, hints[name])
    default = parameter.default
    if isinstance(default, list | dict | set | bytearray):
        return (name, hints[name], msgspec.field(default_factory=default.copy))
    return (name, hints[name], default)


def _check_types(title: str, arguments: type[msgspec.Struct]) -> None:
    try:
        info = msgspec.inspect.type_info(arguments)
        msgspec.json.Decoder(arguments)
    except TypeError as error:
        raise ActionDefinitionError(f"{title}: {error}") from error
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        if custom := _custom(field.type):
            raise ActionDefinitionError(
                f"{title}: {field.name!r} is a {custom.__name__}, which JSON cannot hold: use "
                "strings, numbers, dates, lists, dictionaries, dataclasses or msgspec Structs"
            )


def _custom(info: Any, seen: frozenset[int] = frozenset()) -> type | None:
    """The first type within `info` that msgspec cannot convert by itself."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if not isinstance(info, msgspec.inspect.Type) or id(info) in seen:
        return None
    seen |= {id(info)}
    for part in msgspec.structs.asdict(info).values():
        for inner in part if isinstance(part, tuple) else (part,):
            inner = inner.type if isinstance(inner, msgspec.inspect.Field) else inner
            if found := _custom(inner, seen):
                return found
    return None


def _declaration(
    title: str, audience: Templates | None, names: tuple[str, ...]
) -> Callable[[dict[str, Any]], str | Sequence[str]] | None:
    if audience is None:
        return None
    if callable(audience):
        function = audience
        return lambda arguments: function(**arguments)
    templates = [audience] if isinstance(audience, str) else list(audience)
    for template in templates:
        _check_template(title, template, names)
    if len(templates) == 1:
        return templates[0].format_map
    return lambda arguments: [template.format_map(arguments) for template in templates]


def _check_template(title: str, template: str, names: tuple[str, ...]) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ActionDefinitionError(f"{title}: audience {template!r}: {error}") from error
    for _, name, spec, conversion in parts:
        if name is not None and (name not in names or spec or conversion):
            raise ActionDefinitionError(
                f"{title}: audience {template!r} uses {{{name}}}, which is not one of its "
                f"arguments ({', '.join(names)}); for more than plain names give a function"
            )

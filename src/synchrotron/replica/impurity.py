"""What an action may not reach for, seen while it runs in strict mode (A3).

Nothing is patched. Python's own profile hook tells of each call in the action's thread,
of a C function before it is made, so that what is refused does not happen at all. Two
tables name what is looked for. What no replay can get again is refused: the clock, dice,
the network, other processes and threads. What may be the same everywhere, and often is
not, is warned of: files, the environment, the locale.

A call counts where the application asks for it, through whatever libraries. Logging, for
one, looks at the clock for itself. Not seen is what C code calls (`map(time.time, …)`);
the second run of strict mode, and `check_purity` in another process, then tell.
"""

from __future__ import annotations

import ast
import gc
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

from synchrotron.app.action import Action
from synchrotron.errors import DeterminismWarning, ImpureAction


class Impurity(NamedTuple):
    """Something outside of record and rows."""

    reads: str
    instead: str
    refused: bool = True
    """Otherwise it is warned of."""


_CLOCK = Impurity("reads this machine's clock", "use ctx.now")
_DICE = Impurity("draws random numbers of its own", "use ctx.random")
_NEW_ID = Impurity("makes a random id", "use ctx.new_id(table)")
_NETWORK = Impurity(
    "uses the network",
    "fetch before replica.run, and pass what came as an argument; send after its outcome",
)
_PROCESS = Impurity(
    "starts another process", "do that outside, and pass what came of it as an argument"
)
_THREAD = Impurity("starts a thread", "do that outside: the order of threads is nobody's")
_FILES = Impurity(
    "uses a file", "read it before replica.run, and pass what is in it as an argument", False
)
_ENVIRONMENT = Impurity(
    "reads this process's environment", "read it before replica.run, and pass it as an argument",
    False,
)  # fmt: skip
_LOCALE = Impurity(
    "formats by this machine's locale",
    "keep plain values in rows, and format them where they are shown",
    False,
)
_ZONE = Impurity(
    "reads this machine's clock or time zone", "use ctx.now and its methods, in UTC", False
)


def _named(impurity: Impurity, module: str, names: str) -> dict[str, Impurity]:
    return {f"{module}.{name}": impurity for name in names.split()}


# C functions, by module and name; methods by each class that has them.
_BUILTIN = {
    **_named(_CLOCK, "time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns"),
    **_named(_CLOCK, "time", "process_time process_time_ns thread_time thread_time_ns"),
    **_named(_ZONE, "time", "localtime gmtime ctime asctime strftime"),
    **_named(_CLOCK, "datetime.datetime", "now utcnow today"),
    **_named(_CLOCK, "datetime.date", "today"),
    **_named(_DICE, "os", "urandom getrandom"),
    **_named(_PROCESS, "os", "system fork forkpty posix_spawn posix_spawnp startfile"),
    **_named(_PROCESS, "os", "execv execve spawnv spawnve"),
    **_named(_PROCESS, "_posixsubprocess", "fork_exec"),
    **_named(_PROCESS, "_winapi", "CreateProcess"),
    **_named(_THREAD, "_thread", "start_new_thread start_joinable_thread start_new"),
    **_named(_NETWORK, "_socket", "getaddrinfo getnameinfo gethostbyname gethostbyname_ex"),
    **_named(_NETWORK, "_socket", "gethostbyaddr gethostname socketpair"),
    **_named(_NETWORK, "_socket.socket", "connect connect_ex bind listen send sendall sendto"),
    **_named(_NETWORK, "_socket.socket", "sendmsg recv recv_into recvfrom recvmsg"),
    **_named(_NETWORK, "_ssl._SSLSocket", "read write do_handshake"),
    **_named(_FILES, "io", "open open_code"),
    **_named(_FILES, "os", "open listdir scandir stat lstat access readlink getcwd mkdir rmdir"),
    **_named(_FILES, "os", "remove unlink rename replace truncate chdir _path_exists _path_isfile"),
    **_named(_ENVIRONMENT, "os", "getpid getppid getlogin getuid uname cpu_count putenv"),
    **_named(_LOCALE, "_locale", "setlocale localeconv strcoll strxfrm nl_langinfo getencoding"),
}  # fmt: skip
# Functions in Python, told before the C functions that they call.
_PYTHON = {
    **_named(_NEW_ID, "uuid", "uuid1 uuid4 uuid6 uuid7 getnode"),
    **_named(_NETWORK, "socket", "socket.__init__ create_connection getaddrinfo create_server"),
    **_named(_NETWORK, "urllib.request", "urlopen"),
    **_named(_PROCESS, "subprocess", "Popen.__init__"),
    **_named(_ENVIRONMENT, "os", "_Environ.__getitem__ _Environ.__iter__ _Environ.__setitem__"),
    **_named(_LOCALE, "locale", "format_string currency str localeconv setlocale getlocale"),
}
# The system's own modules, by their names on each platform.
_ALIASES = {"posix": "os", "nt": "os", "_io": "io"}
# What these do with clocks and files is not the action's doing, and not in its results.
_EXEMPT = frozenset(
    {"logging", "warnings", "traceback", "linecache", "importlib", "encodings", "zoneinfo"}
    | {"_frozen_importlib", "_frozen_importlib_external", "_strptime", "pdb", "bdb"}
)
_TIMED = ("sqlalchemy.engine", "sqlalchemy.pool", "sqlalchemy.sql.compiler")
_OURS = ("app", "application", "core", "ext", "replica", "store")
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]")


class Site(NamedTuple):
    """A line of code, as an error shows it."""

    file: str
    line: int
    function: str
    caller: Site | None = None
    """The line of the action itself, where that called something else of the application."""

    def __str__(self) -> str:
        called = f", called at {self.caller}" if self.caller else ""
        return f"{self.file}:{self.line}, in {self.function}{called}"


def home_of(action: Action[Any, Any]) -> Site:
    """Where an action is defined."""
    code = getattr(action.function, "__code__", None)
    if code is None:
        return Site("<unknown>", 1, action.name)
    return Site(code.co_filename, code.co_firstlineno, code.co_name)


def site_of(frame: FrameType | None, boundary: CodeType) -> Site | None:
    """The innermost line of the application at or outside `frame`, within `boundary`."""
    chain = _chain(frame, boundary)
    return None if not chain else _site(chain)


def _chain(frame: FrameType | None, boundary: CodeType) -> list[FrameType]:
    """The frames from this one to that of the action, which `boundary` called."""
    chain = []
    while frame is not None and frame.f_code is not boundary:
        chain.append(frame)
        frame = frame.f_back
    return chain if frame is not None else []


def _site(chain: list[FrameType]) -> Site:
    home = chain[-1]
    found = next((frame for frame in chain if _is_application(frame)), home)
    return _line(found, None if found is home else _line(home))


def _line(frame: FrameType, caller: Site | None = None) -> Site:
    return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, caller)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    """Whether it is Python's own code."""
    return _module(frame).partition(".")[0] in sys.stdlib_module_names - {"__main__"}


def _is_ours(frame: FrameType) -> bool:
    root, _, rest = _module(frame).partition(".")
    return root == "synchrotron" and rest.partition(".")[0] in _OURS


def _is_application(frame: FrameType) -> bool:
    return not (
        _is_library(frame) or _is_ours(frame) or _INSTALLED.search(frame.f_code.co_filename)
    )


class Watch:
    """The profile hook for one run of an action. `boundary` is the code that calls it."""

    def __init__(self, action: Action[Any, Any], boundary: CodeType) -> None:
        self.failure: ImpureAction | DeterminismWarning | None = None
        self._action = action
        self._boundary = boundary
        self._warned: set[tuple[Impurity, Site]] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread. Raises what was refused, also where the action swallowed it."""
        before, collecting = sys.getprofile(), gc.isenabled()
        # What the collector calls, it calls at any line: no doing of that line's.
        gc.disable()
        sys.setprofile(self._hook)
        try:
            yield
        finally:
            sys.setprofile(before)
            if collecting:
                gc.enable()
            if self.failure is not None:
                raise self.failure

    def _hook(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            for name in _names(arg):
                if impurity := _BUILTIN.get(name):
                    self._seen(frame, name, impurity)
                    return
            if _draws(arg, frame):
                self._seen(frame, f"random.{arg.__name__}", _DICE)
        elif event == "call":
            name = f"{_module(frame)}.{frame.f_code.co_qualname}"
            if impurity := _PYTHON.get(name):
                self._seen(frame.f_back, name, impurity)

    def _seen(self, frame: FrameType | None, name: str, impurity: Impurity) -> None:
        chain = _chain(frame, self._boundary)
        if not chain or _is_exempt(chain, name):
            return
        site, name = _site(chain), name.replace("_Environ.__getitem__", "environ[…]")
        text = f"{self._action.title} {impurity.reads} ({name}) at {site}"
        if impurity.refused:
            self.failure = ImpureAction(
                f"{text}. A replay would get something else: {impurity.instead}"
            )
            raise self.failure
        if (impurity, site) not in self._warned:
            self._warned.add((impurity, site))
            self._warn(f"{text}. Another machine may get something else: {impurity.instead}", site)

    def _warn(self, text: str, site: Site) -> None:
        try:
            warn_at(text, site)
        except DeterminismWarning as error:  # as the filters have it
            self.failure = error
            raise


def warn_at(text: str, site: Site) -> None:
    """Warn of a line, whoever runs it."""
    warnings.warn_explicit(text, DeterminismWarning, site.file, site.line)


def _names(function: Any) -> Iterator[str]:
    """The names under which a C function may be in the table."""
    holder, name = getattr(function, "__self__", None), function.__name__
    if isinstance(holder, type):
        yield from (f"{base.__module__}.{base.__qualname__}.{name}" for base in holder.__mro__)
    elif module := getattr(function, "__module__", None):
        yield f"{_ALIASES.get(module, module)}.{name}"
    elif holder is not None:
        kinds = type(holder).__mro__
        yield from (f"{base.__module__}.{base.__qualname__}.{name}" for base in kinds)


def _draws(function: Any, frame: FrameType) -> bool:
    """Whether it draws from Python's shared dice, or seeds new ones by the machine's."""
    random = sys.modules.get("random")
    if random is None or not isinstance(dice := getattr(function, "__self__", None), random.Random):
        return False
    if function.__name__ == "seed":
        return frame.f_code is random.Random.seed.__code__ and frame.f_locals["a"] is None
    return dice is random.random.__self__


def _is_exempt(chain: list[FrameType], name: str) -> bool:
    if any(_module(frame).partition(".")[0] in _EXEMPT for frame in chain):
        return True
    asking = next((frame for frame in chain if not _is_library(frame)), chain[-1])
    if asking is not chain[-1] and _is_ours(asking):
        return True
    # SQLAlchemy times its own work. A column's default it calls from elsewhere.
    return _module(asking).startswith(_TIMED) and name.startswith("time.")


# ---- what no call shows ----------------------------------------------------------------

_BY_LOCALE = re.compile(r"(.?[<>=^])?[-+ ]?z?#?0?\d*[_,]?(\.\d+)?n")
_FIELD = re.compile(r"\{[^{}:]*:([^{}]*)\}")


def formats_by_locale(tree: ast.AST) -> Iterator[int]:
    """The lines of a function at which the format `n` is used: no call shows an f-string's."""
    for node in ast.walk(tree):
        match node:
            case ast.FormattedValue(format_spec=ast.JoinedStr(values=[ast.Constant(value=spec)])):
                specs = [spec]
            case ast.Call(func=ast.Name(id="format"), args=[_, ast.Constant(value=spec)]):
                specs = [spec]
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
                specs = _FIELD.findall(text)
            case _:
                continue
        if any(isinstance(spec, str) and _BY_LOCALE.fullmatch(spec) for spec in specs):
            yield node.lineno


def complaint_of_locale(action: Action[Any, Any], site: Site) -> str:
    return (
        f"{action.title} {_LOCALE.reads} (the format 'n') at {site}. "
        f"Another machine may get something else: {_LOCALE.instead}"
    )

"""The user's Python: files that are imported by path, and the line of theirs that an error came from.

A definition's `build`, a data file's `load` and a network's `forward` may raise anything, or end the program. Whoever
calls them does so within `user_code_errors`, which says where it happened and what the code itself said.
"""

from __future__ import annotations

import dis
import hashlib
import importlib.util
import linecache
import re
import sys
import sysconfig
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError, SecateurError
from pipeline.core.interruption import Interrupted
from pipeline.core.paths import content_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from traceback import FrameSummary
    from types import FrameType, ModuleType, TracebackType

_OURS = str(Path(__file__).parents[1])
#: Files here are a library's, not the user's.
LIBRARIES = (_OURS, "<", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_SITE = "site-packages"
#: Where torch calls a network's forward, and its layers'.
CALL, CALLER = "_call_impl", str(Path("torch", "nn", "modules", "module.py"))
#: How torch's exporters quote the line that a node of a graph came from.
_QUOTED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
WIDTH = 100

#: Files that were imported, as the interpreter names them -> as they were given; and names of contents.
_imported: dict[str, str] = {}
_names: dict[str, str] = {}

Frames = list[tuple["FrameType", int, int]]


@dataclass(frozen=True)
class Origin:
    """Where in the user's code an error came from.

    `place` reads 'model.py:12 `x = x.view(-1, 800)`', or names the layer where no code of the user's was running;
    `own` says that the code raised it itself, rather than a library that it called; `error` is what was raised.
    """

    place: str
    own: bool
    error: BaseException

    def __str__(self) -> str:
        """Return the place and what was said there."""
        if isinstance(self.error, SystemExit):
            return f"{self.place}: ended the program (exit code {self.error.code or 0}); raise an error instead"
        return f"{self.place}: {described(self.error)}"


def known_as(path: Path) -> None:
    """Give a file's content a name: copies of it, such as the one in an artifact, are told as `path`."""
    if path.is_file():
        _names[_digest(path)] = str(path)


def import_file(path: Path, prefix: str, origin: Path | None = None) -> ModuleType:
    """Import a Python file under a name of its own, so that no folder needs to be on the import path.

    With `error_origin` its `__file__` is that.

    Raises InputError when it is no Python file; what the file itself raises is for the caller (`user_code_errors`).
    """
    name = f"{prefix}_{_digest(path)[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    if origin is not None:
        module.__file__ = str(origin)
    _imported[str(spec.origin)] = str(path)
    linecache.checkcache(spec.origin)
    sys.modules[name] = module  # as for any import: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@contextmanager
def user_code_errors(doing: str, *, alone: bool = False) -> Iterator[None]:
    """Within the block, what the user's code raises becomes an InputError with its line and its own message.

    `doing` starts the message. Errors of ours, those that no code of the user's had a part in, and a real Ctrl-C pass;
    with `alone` the block calls that code and nothing else, so that every exception is its.
    """
    try:
        yield
    except (SecateurError, Interrupted):
        raise
    except BaseException as error:
        found = error_origin(error)
        if found is None and not (alone and isinstance(error, Exception)):
            raise
        raise InputError(f"{doing}: {found or described(error)}") from error


def described(error: BaseException) -> str:
    """Return the class and the text of an error, without empty ends."""
    text = str(error).strip()
    return f"{type(error).__name__}{f': {text}' if text else ''}"


def error_origin(error: BaseException, *, layers: bool = True) -> Origin | None:
    """Return where in the user's code an error came from; None where that code had no part in it.

    Without `layers`, a line of the user's files counts alone, and not a layer of a network that has none. Of an error
    that a library raised from another, the first whose traceback has a line of the user's counts.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SyntaxError) and cause.filename in _imported:
            return Origin(_line(cause.filename, cause.lineno or 0, cause.text or ""), own=True, error=cause)
        frames = list(_frames(cause.__traceback__))
        if not isinstance(cause, Exception) and _interrupted(cause, frames):
            return None
        if users := _users(frames):
            frame, line, _ = users[-1]
            return Origin(_line(frame.f_code.co_filename, line), own=users[-1] is frames[-1], error=cause)
        if layers and (layer := _innermost_layer(frames)):
            return Origin(layer, own=False, error=cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def line_of(stack: Sequence[FrameSummary]) -> str:
    """Return the innermost line of the user's files in a stack; empty if none."""
    users = [frame for frame in stack if frame.filename in _imported]
    return _line(users[-1].filename, users[-1].lineno or 0) if users else ""


def quoted_line(text: str) -> str:
    """Return the last line of the user's that a library's message quotes as 'File "...", line N'; empty if none."""
    found = [match for match in _QUOTED.finditer(text) if match["file"] in _imported]
    return _line(found[-1]["file"], int(found[-1]["line"])) if found else ""


def _frames(at: TracebackType | None) -> Iterator[tuple[FrameType, int, int]]:
    """Yield frame, line and instruction of a traceback, outermost first."""
    while at is not None:
        yield at.tb_frame, at.tb_lineno, at.tb_lasti
        at = at.tb_next


def _users(frames: Frames) -> Frames:
    """Return the frames of the user's files: imported ones, and the modules beside them that they call."""
    files = [frame.f_code.co_filename for frame, _, _ in frames]
    first = next((index for index, file in enumerate(files) if file in _imported), len(files))
    return [each for each, file in zip(frames[first:], files[first:], strict=True) if not _library(file)]


def _library(file: str) -> bool:
    return file not in _imported and (file.startswith(LIBRARIES) or _SITE in Path(file).parts)


def _innermost_layer(frames: Frames) -> str:
    """Name the innermost layer that torch was running; empty if none, or if this program raised it within."""
    layers = [
        frame.f_locals.get("self")
        for frame, _, _ in frames
        if frame.f_code.co_name == CALL and frame.f_code.co_filename.endswith(CALLER)
    ]
    if not layers or frames[-1][0].f_code.co_filename.startswith(_OURS):
        return ""
    return _layer(layers[0], layers[-1])


def _layer(network: Any, layer: Any) -> str:  # noqa: ANN401 - modules of torch, which is not loaded here
    """Name a layer by its path in the network and its class; empty for layers of this program's own."""
    kind = type(layer)
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return ""
    path = next((name for name, each in network.named_modules() if each is layer), "")
    return f"layer {path} ({kind.__name__})" if path else f"the network ({kind.__name__})"


def _line(file: str, line: int, code: str = "") -> str:
    """Return 'model.py:12 `code`', the file as the user gave it."""
    code = shorten((code or linecache.getline(file, line)).strip(), WIDTH, placeholder=" ...")
    path, shown = Path(file), _imported.get(file, file)
    if path.is_file():
        shown = _names.get(_digest(path), shown)
    return f"{shown}:{line}" + (f" `{code}`" if code else "")


def _interrupted(error: BaseException, frames: Frames) -> bool:
    """Say whether it is Ctrl-C, or raised by this program's handler of a signal.

    Ctrl-C arrives at any instruction; code that raises it itself has a `raise` there.
    """
    if not frames:
        return True
    frame, _, at = frames[-1]
    if frame.f_code.co_filename.startswith(_OURS):
        return True
    return isinstance(error, KeyboardInterrupt) and dis.opname[frame.f_code.co_code[at]] != "RAISE_VARARGS"


def _digest(path: Path) -> str:
    return hashlib.sha256(content_of(path)).hexdigest()

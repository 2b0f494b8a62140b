"""A program of its own: tries the task of a new bundle as on a board, where of all packages numpy alone is installed.

    python -I -B as_board.py FOLDER

Its last line is JSON with an `error`, empty where all is well, and whether it `lacks` a module or a file that a board
does not have. It imports nothing of this program.
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the system and the libraries read by themselves, and no more: data may lie below /usr/local, /etc or /dev/shm.
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo/")
_PYTHON = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class OnlyNumpy(importlib.abc.MetaPathFinder):
    """Finds no package but numpy and what lies in the bundle."""

    def __init__(self, folder: Path) -> None:
        own = {path.stem for path in (folder / "task").iterdir()}
        self.allowed = {"numpy", "on_device", "bundle_task", "secateur_task", *own, *sys.stdlib_module_names}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:  # noqa: ANN401, ARG002
        """Raise for other packages; the usual finders look for the rest."""
        if path is None and name not in self.allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"there is no module {name}", name=name)


def tried(folder: Path) -> dict[str, Any]:
    """Return what goes wrong where a bundle's task is tried on its samples, and whether something is lacking there."""
    sys.meta_path.insert(0, OnlyNumpy(folder))
    sys.path.insert(0, str(folder))
    infer, self_test, task_code = (
        importlib.import_module(f"on_device.{name}") for name in ("infer", "task.self_test", "task.task_code")
    )
    sys.path.remove(str(folder))
    facts = task_code.load_facts(folder)
    content = json.loads((folder / "samples" / "expected.json").read_bytes())
    names: dict[str, Any] = {path.relative_to(folder).as_posix(): {} for path in folder.rglob("*") if path.is_file()}
    opened = _watched_files(folder)
    try:
        task = task_code.load_task_code(folder, facts)
        samples = self_test.read_samples(folder, {"files": names}, content, facts, facts["runtime"]).samples
        self_test.check_task_code(task, facts, samples)
        for sample in samples:
            raw = task_code.raw_of(sample.raw, facts)
            task.show(task.decode(sample.outputs), raw)
    except (infer.Rejected, self_test.Failed) as error:
        return {"error": str(error), "lacks": _is_of_import(error)}
    return {
        "error": f"it reads {min(opened)}, which is not part of the bundle" if opened else "",
        "lacks": bool(opened),
    }


def _is_of_import(error: BaseException | None) -> bool:
    """Return whether an error comes from one of importing."""
    return error is not None and (isinstance(error, ImportError) or _is_of_import(error.__cause__ or error.__context__))


def _watched_files(folder: Path) -> set[str]:
    """Return a set that from now on gets the files, other than Python's, that are opened outside of `folder`."""
    packages = importlib.import_module("numpy").__path__[0]
    known = (*_SYSTEM, *_PYTHON, f"{folder}/", f"{packages}/")
    found: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            path = str(Path.cwd() / arguments[0])
            if not path.startswith(known) and not path.endswith((".py", ".pyc")):
                found.add(path)

    sys.addaudithook(hook)
    return found


if __name__ == "__main__":
    print(json.dumps(tried(Path(sys.argv[1]).resolve()), allow_nan=False))

"""What the user's code raises is told with its line and its own message; what is not the user's passes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError, StageError
from pipeline.core.user_code import error_origin, import_file, known_as, user_code_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The body of `go`, in line 5 of the file, and what is said of it.
RAISES = {
    "value": ("raise ValueError('width is odd')", r"model\.py:5 `raise ValueError.*`: ValueError: width is odd"),
    "type": ("return len(5)", r"model\.py:5 `return len\(5\)`: TypeError: object of type 'int' has no len"),
    "empty": ("raise NotImplementedError", r"model\.py:5 `raise NotImplementedError`: NotImplementedError$"),
    "exit": ("sys.exit(0)", r"model\.py:5 `sys\.exit\(0\)`: ended the program \(exit code 0\)"),
    "exit with text": ("sys.exit('no data')", r"ended the program \(exit code no data\)"),
    "interrupt": ("raise KeyboardInterrupt", r"model\.py:5 .*: KeyboardInterrupt"),
    "generator": ("raise GeneratorExit('mine')", r"model\.py:5 .*: GeneratorExit: mine"),
    "root": ("raise BaseException('mine')", r"model\.py:5 .*: BaseException: mine"),
    "library": ("return json.loads('{')", r"model\.py:5 `return json.loads\('\{'\)`: JSONDecodeError"),
    "cause": (
        "try: {}['a']\n    except KeyError as error: raise ValueError('no a') from error",
        r"model\.py:6 .*ValueError: no a",
    ),
    "recursion": ("return go()", r"model\.py:5 `return go\(\)`: RecursionError"),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a file whose function `go` has the given body from line 5 on."""

    def write(body: str, name: str = "model.py") -> Path:
        file = tmp_path / name
        file.write_text(f"import json, os, signal, sys\n\n\ndef go():\n    {body}\n")
        return file

    return write


@pytest.mark.parametrize("case", RAISES)
def test_what_it_raises_is_told_with_its_line(case: str, written: Callable[[str], Path]) -> None:
    """Every kind of exception becomes one message: file, line, code, class and text."""
    body, expected = RAISES[case]
    go = import_file(written(body), "test").go
    with pytest.raises(InputError, match=expected) as caught, user_code_errors("finetune failed"):
        go()
    assert str(caught.value).startswith("finetune failed: ")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("body", ["sys.exit(0)", "raise SystemExit", "raise ValueError('x')", "def f(:"])
def test_what_happens_while_it_is_imported(body: str, tmp_path: Path) -> None:
    """A file that cannot be imported is told alike, syntax errors included."""
    file = tmp_path / "data.py"
    file.write_text(f"import sys\n\n{body}\n")
    with pytest.raises(InputError, match=rf"data\.py:3 `{body[:5]}"), user_code_errors("it"):
        import_file(file, "test")


def test_a_module_beside_it_is_the_users_too(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost line of the user's own files counts, not the one that was imported by path."""
    beside = written("raise ValueError('deep')", "helper_of_test.py")
    monkeypatch.syspath_prepend(beside.parent)
    module = import_file(written("import helper_of_test; helper_of_test.go()"), "test")
    with pytest.raises(InputError, match=r"helper_of_test\.py:5 .*deep"), user_code_errors("it"):
        module.go()


def test_a_real_interruption_passes(written: Callable[[str], Path]) -> None:
    """Ctrl-C while the user's code runs is Ctrl-C; in a process of its own, which a signal may end."""
    file = written("os.kill(os.getpid(), signal.SIGINT)\n    while True: pass")
    code = (
        "import signal; from pathlib import Path; from pipeline.core.user_code import import_file, user_code_errors\n"
        # where tests run in the background, processes are started with this signal ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"module = import_file(Path({str(file)!r}), 'test')\n"
        "try:\n    with user_code_errors('it'): module.go()\nexcept KeyboardInterrupt: print('passed')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("passed\n", "")


def test_what_is_not_the_users_passes() -> None:
    """Errors of this program, and those in which no code of the user's had a part, stay as they are."""
    with pytest.raises(StageError, match=r"^ours$"), user_code_errors("it"):
        raise StageError("ours")
    with pytest.raises(ZeroDivisionError), user_code_errors("it"):
        _ = 1 // 0
    with pytest.raises(InputError, match="it: ZeroDivisionError"), user_code_errors("it", alone=True):
        _ = 1 // 0
    assert error_origin(ValueError("never raised")) is None


def test_a_copy_has_the_name_of_the_file_it_was_made_of(written: Callable[..., Path], tmp_path: Path) -> None:
    """An artifact's copy of a definition is told as the file that the user knows."""
    own = written("raise ValueError('x')", "own.py")
    known_as(own)
    (tmp_path / "store").mkdir()
    copy = tmp_path / "store" / "definition.py"
    copy.write_bytes(own.read_bytes())
    with pytest.raises(InputError) as caught, user_code_errors("it"):
        import_file(copy, "test").go()
    assert f"{own}:5" in str(caught.value)
    assert os.sep + "store" not in str(caught.value)


def test_a_dataclass_with_postponed_annotations_can_be_imported(tmp_path: Path) -> None:
    """Python looks such a class's module up by name, so that it has to be found there."""
    file = tmp_path / "model.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import KW_ONLY, dataclass\n\n\n"
        "@dataclass\nclass Settings:\n    _: KW_ONLY\n    width: int = 3\n"
    )
    assert import_file(file, "test").Settings(width=4).width == 4

"""A device installs exactly the files whose hashes stand in the requirements, on both kinds of processor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.bundle import requirements, wheels, write_wheels
from pipeline.bundle.requirements import pinned, text_of, write_requirements
from pipeline.bundle.wheels import PLACES, NoAnswerError, ask_pip, known_wheels, wheels_of
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from tests.unit.bundle.small_content import content

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[3]
RUNTIMES = ("onnxruntime", "openvino")


def constraints() -> dict[str, str]:
    """Return the versions that the checks run with, by normalised name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


class Index:
    """Stands for pip: knows some packages at some places, and remembers what it was asked."""

    def __init__(self, *without: str) -> None:
        self.without = without
        self.asked: list[tuple[tuple[str, ...], str]] = []

    def __call__(self, pins: Iterable[str], place: str) -> dict[str, tuple[str, str]]:
        """Answer with a wheel of each package, or with nothing."""
        self.asked.append((tuple(pins), place))
        if place in self.without:
            raise NoAnswerError("No matching distribution found")
        return {pin: (f"{pin}-{place}.whl", f"{len(self.asked):064x}") for pin in pins}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_the_runtimes_need() -> None:
    """Of numpy and a runtime everything below, in the versions that are installed, which constraints.txt states."""
    assert {"numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf"} <= {
        pin.partition("==")[0] for pin in pinned("onnxruntime")
    }
    assert {"numpy", "openvino", "openvino-telemetry"} <= {pin.partition("==")[0] for pin in pinned("openvino")}
    stated = constraints()
    for pin in {*pinned("onnxruntime"), *pinned("openvino")}:
        name, _, version = pin.partition("==")
        assert version == stated[name]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hashes_of_our_versions_come_with_the_program(runtime: str) -> None:
    """No index is needed for the pinned versions: every Python and processor has its wheel."""
    for pin in pinned(runtime):
        found = known_wheels(pin)
        assert found is not None
        assert set(found) == set(PLACES)
        for place, (name, sha256) in found.items():
            assert name.endswith(("-none-any.whl", f"{place.split()[1]}.whl"))
            assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_no_address_stands_in_the_file() -> None:
    """Names and hashes alone: where the files come from is the reader's choice."""
    text = wheels.KNOWN.read_text()
    assert "//" not in text
    assert set(json.loads(text)) == {"schema_version", "wheels"}


def test_a_file_for_each_runtime(tmp_path: Path) -> None:
    """The default runtime's file has the plain name; each line is pinned and has hashes; twice gives the same bytes."""
    made = content(tmp_path / "run")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_requirements(made, tmp_path / folder)
    names = ["requirements-openvino.txt", "requirements.txt"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        text = (tmp_path / "one" / name).read_text()
        assert text == (tmp_path / "two" / name).read_text()
        lines = [line for line in text.replace(" \\\n", "").splitlines() if not line.startswith(("#", "--"))]
        assert all(re.fullmatch(r"[a-z-]+==[0-9.]+(    --hash=sha256:[0-9a-f]{64})+", line) for line in lines)
    assert "numpy" in lines[1]
    first = (tmp_path / "one" / "requirements.txt").read_text().splitlines()[0]
    machines = ", ".join(f"{machine} (glibc 2.28 or newer)" for machine in ("x86_64", "aarch64"))
    assert first == f"# onnxruntime for CPython 3.11, 3.12, 3.13 on Linux: {machines}"


def test_an_unknown_version_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place is asked of pip; its answer is kept, and nothing but what is unknown is asked for."""
    index = Index()
    monkeypatch.setattr(wheels, "ask_pip", index)
    found = wheels_of(["numpy==9.9.9", *pinned("onnxruntime")[:1]], SilentProgress())
    assert [asked for asked, _ in index.asked] == [("numpy==9.9.9",)] * len(PLACES)
    assert found["numpy==9.9.9"]["3.12 aarch64"][0] == "numpy==9.9.9-3.12 aarch64.whl"
    assert wheels_of(["numpy==9.9.9"], SilentProgress()) == {"numpy==9.9.9": found["numpy==9.9.9"]}
    assert len(index.asked) == len(PLACES)


def test_places_without_a_wheel_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a package no longer supports is noted and stands in no header; such an answer is not kept."""
    index, notes, progress = Index("3.11 x86_64", "3.11 aarch64"), [], SilentProgress()
    monkeypatch.setattr(wheels, "ask_pip", index)
    monkeypatch.setattr(progress, "note", notes.append)
    found = wheels_of(["numpy==9.9.9"], progress)
    assert text_of("onnxruntime", "requirements.txt", found).startswith("# onnxruntime for CPython 3.12, 3.13 on Linux")
    assert [note.partition(": ")[2] for note in notes] == [
        f"the requirements do not cover CPython {place}: No matching distribution found" for place in index.without
    ]
    wheels_of(["numpy==9.9.9"], progress)
    assert len(index.asked) == 2 * len(PLACES)


def test_without_an_answer_there_are_no_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written without hashes: the message says what to do."""
    monkeypatch.setattr(wheels, "ask_pip", Index(*PLACES))
    with pytest.raises(InputError, match=r"numpy==9\.9\.9 are not known.*reaches a package index.*constraints\.txt"):
        wheels_of(["numpy==9.9.9"], SilentProgress())


def test_pip_without_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, told to use no index, gives a reason in one line."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(NoAnswerError, match=r"No matching distribution found for numpy==9\.9\.9") as refused:
        ask_pip(["numpy==9.9.9"], "3.12 aarch64")
    assert "\n" not in str(refused.value)


def test_requirements_that_hold_elsewhere_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers are those of the devices, not of this machine; what is only needed by an extra is left out."""
    needed = {
        "onnxruntime": ['numpy; platform_machine == "aarch64"', 'onnx; sys_platform == "win32"', 'torch; extra == "x"']
    }
    monkeypatch.setattr(requirements, "requires", needed.get)
    assert [pin.partition("==")[0] for pin in pinned("onnxruntime")] == ["numpy", "onnxruntime"]
    needed["onnxruntime"].append("absent-package; python_version >= '3.12'")
    with pytest.raises(InputError, match="absent-package is not installed, but a bundle must pin it"):
        pinned("onnxruntime")


def dry_run(python: str, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Let pip check what it would install, hashes included."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--require-hashes", "-r", str(file)]
    return subprocess.run([*command, *more], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pip_installs_what_stands_there(tmp_path: Path) -> None:
    """A new environment here, and one on ARM: pip accepts every hash, and needs nothing more."""
    try:
        ask_pip(["flatbuffers==25.12.19"], "3.11 x86_64")
    except NoAnswerError as error:
        pytest.skip(f"pip reaches no index: {error}")
    write_requirements(content(tmp_path / "run"), tmp_path)
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)  # a fresh copy of python may be "busy"
    here = dry_run(str(tmp_path / "venv" / "bin" / "python"), tmp_path / "requirements.txt")
    assert here.returncode == 0, here.stderr
    assert "onnxruntime-" in here.stdout
    platforms = [part for glibc in wheels.GLIBC for part in ("--platform", f"{glibc}_aarch64")]
    python = ("--implementation", "cp", "--python-version", "3.12", "--abi", "cp312", "--abi", "abi3", "--abi", "none")
    for runtime, name in (("onnxruntime", "requirements.txt"), ("openvino", "requirements-openvino.txt")):
        target = str(tmp_path / runtime)
        there = dry_run(sys.executable, tmp_path / name, *platforms, *python, "--only-binary=:all:", "--target", target)
        assert there.returncode == 0, there.stderr
        assert f"{runtime}-" in there.stdout
    changed = re.sub("sha256:.{4}", "sha256:0000", (tmp_path / "requirements.txt").read_text())
    (tmp_path / "changed.txt").write_text(changed)
    refused = dry_run(str(tmp_path / "venv" / "bin" / "python"), tmp_path / "changed.txt")
    assert refused.returncode
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_the_writer_of_wheels_takes_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses what it would ignore, before it asks an index."""
    monkeypatch.setattr("sys.argv", ["write_wheels", "numpy==9.9.9"])
    with pytest.raises(SystemExit) as stopped:
        write_wheels.main()
    assert stopped.value.code == 2

"""Every file that a command reads, damaged in every way: a result, or one message with exit code 2."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.torture import damage
from tests.torture.conftest import digests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Commands
    from tests.torture.tally import Tally

pytestmark = pytest.mark.slow


class Reader(NamedTuple):
    """A file, the command that reads it, and the exit codes that are right."""

    file: str
    command: tuple[str, ...]
    ways: dict[str, damage.Way]
    codes: tuple[int, ...] = (0, 2)


STAGES = "runs/toy/stages"
NETWORK, ONNX, INT8 = f"{STAGES}/01-prune", f"{STAGES}/03-export-onnx/model.onnx", f"{STAGES}/04-quantize/model.onnx"
READERS = [
    Reader("toy.yaml", ("validate", "toy.yaml"), damage.BYTES),
    Reader("model.py", ("inspect", "model.py", "--input", "1,12,12"), damage.BYTES),
    Reader("runs/toy/run.json", ("report", "runs/toy"), damage.JSON),
    Reader("runs/toy/plan.json", ("plan", "toy.yaml"), damage.JSON),
    Reader(f"{NETWORK}/network.json", ("inspect", NETWORK), damage.JSON),
    Reader(f"{NETWORK}/artifact.json", ("inspect", NETWORK), damage.JSON),
    Reader(f"{NETWORK}/weights.safetensors", ("inspect", NETWORK), damage.BYTES),
    Reader(ONNX, ("inspect", ONNX), damage.BYTES),
    Reader(INT8, ("inspect", INT8, "--against", ONNX), damage.BYTES),
    Reader("ir/model.xml", ("inspect", "ir/model.xml", "--runtime", "openvino"), damage.BYTES),
    Reader("ir/model.bin", ("inspect", "ir/model.xml", "--runtime", "openvino"), damage.BYTES),
    Reader(INT8, ("pack", INT8, "-o", "made.packed"), damage.BYTES),
    Reader("ir/model.bin", ("pack", "ir/model.xml", "-o", "made.packed"), damage.BYTES),
    Reader("int8.packed", ("unpack", "int8.packed", "-o", "unpacked"), damage.BYTES, (2,)),
    Reader("devices.json", ("device", "list"), damage.JSON),
    Reader("runs/toy/run.json", ("bundle", "runs/toy", "--out", "made"), damage.JSON),
    Reader(INT8, ("bundle", "runs/toy", "--out", "made"), damage.BYTES, (0, 2, 3)),
    *(
        Reader(f"bundle/{name}", ("verify", "bundle"), damage.JSON if name.endswith("json") else damage.BYTES, (2,))
        for name in (
            "manifest.json",
            "SHA256SUMS",
            "model/model.onnx",
            "samples/expected.json",
            "labels.txt",
            "infer.py",
        )
    ),
]


@pytest.fixture(scope="module")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with all files, which nobody changes."""
    commands.warm()  # which runs the recipe, and so makes what is copied
    folder = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(commands.folder, folder, ignore=shutil.ignore_patterns("output-*", "server.log"))
    text = (folder / "toy.yaml").read_text()
    (folder / "ir.yaml").write_text(f"{text}  - {{kind: export, to: openvino}}\n")
    for command in (
        ("device", "add", "pi", "ssh://pi@nowhere.invalid"),
        ("run", "ir.yaml"),
        ("bundle", "runs/toy", "--out", "bundle"),
        ("pack", INT8, "-o", "int8.packed"),
    ):
        ended = commands.run(folder, *command, environment=environment(folder))
        assert ended.code == 0, ended.err
    (ir,) = (folder / "runs/ir/stages").glob("*openvino")
    shutil.copytree(ir, folder / "ir")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return where a project has its store and its devices."""
    return {"SECATEUR_STORE": str(folder / "store"), "SECATEUR_DEVICES": str(folder / "devices.json")}


def cases(*, full: bool) -> Iterator[tuple[Reader, str, damage.Way]]:
    """Yield readers with ways to damage their files; a part of them where not all are wanted."""
    everything = [(reader, name, way) for reader in READERS for name, way in reader.ways.items()]
    yield from everything if full else everything[::16]


@pytest.mark.parametrize("part", range(4))
def test_damaged_files(commands: Commands, whole: Path, tally: Tally, tmp_path: Path, part: int) -> None:
    """One file at a time; nothing hangs on pipes and devices."""
    for number, (reader, name, way) in enumerate(cases(full=tally.full)):
        if number % 4 == part:
            folder = damage.fresh(whole, tmp_path / str(number))
            way(folder / reader.file, random.Random(number))
            ended = commands.run(folder, *reader.command, environment=environment(folder))
            tally.add("damaged file", (reader.command[0], reader.file, name), ended.wrong(*reader.codes))
            shutil.rmtree(folder)


@pytest.mark.parametrize("part", range(2))
def test_damaged_entries_of_the_store(
    commands: Commands,
    whole: Path,
    expected: list[tuple[str, str]],
    tally: Tally,
    tmp_path: Path,
    part: int,
) -> None:
    """What lies there incomplete or changed is made again: the run ends with the same bytes."""
    files = sorted(path.relative_to(whole) for path in (whole / "store").glob("[0-9a-f]*/*/**/*") if path.is_file())
    ways = ("missing", "cut", "flipped", "empty")
    everything = [(file, name) for file in files for name in ways]
    for number, (file, name) in enumerate(everything if tally.full else everything[:: len(everything) // 5]):
        if number % 2 == part:
            folder = damage.fresh(whole, tmp_path / str(number))
            shutil.rmtree(folder / "runs")
            damage.BYTES[name](folder / file, random.Random(number))
            ended = commands.run(folder, "run", "toy.yaml", environment=environment(folder))
            same = ended.code != 0 or digests(folder / "runs/toy") == expected
            tally.add(
                "damaged entry of the store", (str(file), name), ended.wrong(0) or ("" if same else "other bytes")
            )
            shutil.rmtree(folder)

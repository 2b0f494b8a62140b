"""The command profile: text and JSON of a cost model, and one message for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.results.profile import (
    ClassPrice,
    CostProfile,
    FittedPrices,
    LayerPrice,
    ModelError,
    PriceFloor,
)
from pipeline.results.run import Interval
from pipeline.run.profile import KeptProfile

if TYPE_CHECKING:
    from click.testing import Result

    from tests.project import Project

LAYERS = tuple(LayerPrice(name=f"layer{n}", operator="conv3x3 int8", milliseconds=0.1) for n in range(15))
FITTED = FittedPrices(
    error=ModelError(median=0.021, p90=0.08, trusted=True),
    floor=PriceFloor(factor=0.2, parts={"overhead": 0.3, "calls of operators": 0.06, "layers that nothing narrows": 0}),
    classes=(
        ClassPrice(name="conv3x3 int8", layers=15, milliseconds=1.5, granule=16),
        ClassPrice(name="[bold]Add", layers=1, milliseconds=1e-9),
    ),
    layers=LAYERS,
)
PROFILE = CostProfile(
    created="2026-11-30T00:00:00+00:00",
    network="Toy",
    precision="int8 (u8s8)",
    runtime="onnxruntime",
    runtime_version="1.2",
    threads=1,
    batch=1,
    device="local",
    fingerprint={},
    whole=Interval(value=1.8, low=1.7, high=1.9),
    seconds=61,
    fitted=FITTED,
)


def profile(*arguments: object) -> Result:
    """Run the command in this process, in a wide terminal."""
    return CliRunner().invoke(app, ["profile", *map(str, arguments)], env={"COLUMNS": "160"})


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Have all networks priced already; return with what terms that was asked for."""
    asked: list[tuple[object, ...]] = []

    def found(given: object, terms: object, *_: object, **options: object) -> KeptProfile:
        asked.append((given, terms, options["fresh"]))
        return KeptProfile(PROFILE, Path("cache/profile.json"))

    for name in ("profile_recipe", "profile_model"):
        monkeypatch.setattr(f"pipeline.run.profile.{name}", found)
    return asked


def test_text_says_what_sets_the_floor_and_what_takes_long(project: Project, priced: list[tuple[object, ...]]) -> None:
    """Each class has its granule, or that none was seen; what no node takes and what is not named has a line."""
    done = profile(project.recipe, "--fresh", "--threads", 2, "--moves", "channels, blocks")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    for expected in (
        "Toy: int8 (u8s8) file, onnxruntime 1.2 on local, 1 thread, batch 1",
        "Whole file 1.80 ms [1.70, 1.90]",
        "Floor 0.200x, 0.360 ms: overhead 0.300 ms, calls of operators 0.0600 ms",
        "Model's error 2.1 % in the median, 8.0 % in one of ten, of states held out: trusted",
        "Probes 0 in 1 min 01 s",
        "[bold]Add 1 0 ms 0.0 % not seen",
        "outside of nodes 0.300 ms 16.7 %",
        "layer11 conv3x3 int8 0.100 ms 5.6 %",
        "3 other nodes 0.300 ms 16.7 %",
        "Kept in: cache/profile.json",
    ):
        assert expected in lines
    ((_, terms, fresh),) = priced
    assert fresh
    assert vars(terms) == {
        "device": None,
        "runtime": None,
        "threads": 2,
        "precision": None,
        "moves": ("channels", "blocks"),
    }


def test_json_is_the_documented_structure(project: Project, priced: list[tuple[object, ...]]) -> None:
    """It reads back as the type whose schema the program prints; a definition is a network alone."""
    done = profile(project.folder / "model.py", "--input", "1,12,12", "--arguments", "width=8", "--json")
    assert CostProfile.model_validate_json(done.stdout) == PROFILE
    ((model, _, fresh),) = priced
    assert model.network.fc.in_features == 8  # type: ignore[attr-defined]
    assert not fresh
    printed = CliRunner().invoke(app, ["schema", "profile"])
    assert '"CostProfile"' in printed.stdout


def test_without_a_template_there_are_no_classes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and what becomes of a target then."""
    kept = KeptProfile(PROFILE.model_copy(update={"fitted": None}), Path("p.json"))
    monkeypatch.setattr("pipeline.run.profile.profile_recipe", lambda *_, **__: kept)
    done = profile(project.recipe)
    assert "the file has no template" in done.output
    assert "Operators" not in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("toy.yaml", "--input", "1,12,12"), "with a recipe, allowed there: --set data"),
        (("toy.yaml", "--arguments", "width=8"), "allowed there: --set model.arguments"),
        (("toy.yaml", "--precision", "int3"), 'precision: found "int3"'),
        (("toy.yaml", "--device", "qemu://cortex-a72"), "which is emulated"),
        (("toy.yaml", "--set", "target.device=qemu://cortex-a72"), "which is emulated"),
        (
            ("toy.yaml", "--set", "target.runtime=torch", "--set", "stages=[{kind: finetune, epochs: 1}]"),
            "runtime torch",
        ),
        (("model.py",), "Give one --input per input"),
        (("file.onnx",), "is an exported file, whose widths are fixed"),
    ],
)
def test_what_cannot_be_priced(
    project: Project, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """One message, before anything is timed."""
    (project.folder / "file.onnx").touch()
    monkeypatch.chdir(project.folder)
    done = profile(*options)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)

"""What a profile prices: the recipe's stage or defaults, and its network. Times of files are made up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline import api
from pipeline.core.errors import InputError
from pipeline.core.stage import Stage, Target
from pipeline.measure.statistics import LogRatio
from pipeline.pricing import pricer
from pipeline.pricing.timing import FileTimer, PairedRatio, TimedFiles
from pipeline.results.profile import CostProfile
from pipeline.results.run import Interval
from pipeline.run.profile import PricingTerms
from pipeline.stages import STAGES, priced_stage
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HALF = {"kind": "prune", "target": {"latency": "0.5x"}}
SHIPS = "  - {kind: export, to: onnx}\n  - {kind: quantize, scheme: u8u8, images: 32}\n"
BOTH = ("blocks.0", "blocks.1")
EXPORT, INT8 = {"kind": "export", "to": "onnx"}, {"kind": "quantize", "scheme": "u8u8"}


def stages(*settings: dict[str, Any]) -> list[Stage]:
    """Return stages of a recipe."""
    return [STAGES[each["kind"]].model_validate(each, strict=False) for each in settings]


@pytest.mark.parametrize(
    ("recipe", "terms", "found"),
    [
        ([], {}, ("fp32", ("channels", "blocks"), 8)),
        ([EXPORT, INT8], {}, ("int8 (u8u8)", ("channels", "blocks"), 8)),
        ([{"kind": "prune", "ratio": 0.5, "align": 4}, EXPORT, INT8], {}, ("int8 (u8u8)", ("channels", "blocks"), 8)),
        ([{**HALF, "align": 16, "moves": ["blocks"]}, EXPORT], {}, ("fp32", ("blocks",), 16)),
        ([HALF, EXPORT, INT8], {"precision": "fp32", "moves": ("channels",)}, ("fp32", ("channels",), 8)),
        ([], {"precision": "fp16"}, ("fp16", ("channels", "blocks"), 8)),
    ],
)
def test_what_is_priced_is_what_the_recipe_would_price(
    recipe: list[dict[str, Any]], terms: dict[str, Any], found: tuple[str, tuple[str, ...], int]
) -> None:
    """Its first stage with a latency, in the precision that ships; without one all defaults; terms win."""
    stage = priced_stage(stages(*recipe), PricingTerms(**terms).of_stage(), pytest.fail)
    latency = stage.aim.latency
    assert latency is not None
    assert (str(latency.file), latency.moves, stage.align) == found


def test_an_earlier_pruning_is_said_not_to_count() -> None:
    """A fine-tuning before it changes no width, and is not worth a word."""
    told: list[str] = []
    recipe = stages({"kind": "finetune", "epochs": 1}, {"kind": "prune", "ratio": 0.5}, HALF, EXPORT)
    priced_stage(recipe, PricingTerms().of_stage(), told.append)
    (line,) = told
    assert line.startswith("stages.2 gets what stages.1 leave")


def test_moves_that_the_schedule_cannot_follow_are_refused() -> None:
    """As the recipe's own would be."""
    schedule = {"method": "soft", "epochs": 1}
    with pytest.raises(InputError, match="found moves with blocks and schedule soft"):
        priced_stage(stages({**HALF, "schedule": schedule}), PricingTerms(moves=("blocks",)).of_stage(), print)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"device": "qemu://cortex-a72"}, "which is emulated"),
        ({"device": "nobody"}, "no device is registered"),
        ({"runtime": "torch"}, 'runtime: found "torch", allowed: onnxruntime, openvino'),
        ({"threads": 0}, "threads: found 0"),
        ({"precision": "int3"}, 'precision: found "int3", allowed: fp32, int8'),
        ({"moves": ()}, "moves: found"),
        ({"moves": ("channels", "layers")}, 'moves: found "channels,layers", allowed: channels, blocks, heads, resol'),
    ],
)
def test_terms_that_are_not_allowed(terms: dict[str, Any], message: str) -> None:
    """One message, before anything is loaded."""
    with pytest.raises(InputError, match=message):
        PricingTerms(**terms).target(Target())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Make up times: those of a file go with its bytes; return what is timed. Few probes, kept in the test's folder."""
    files: list[str] = []

    def made_up(timer: FileTimer, whole: Path, others: Sequence[Path], seconds: float) -> TimedFiles:
        del timer, seconds
        files.extend(each.name for each in others)
        logs = [LogRatio(math.log(each.stat().st_size / whole.stat().st_size), 0.01) for each in others]
        nobody: Any = None
        interval = Interval(value=2.0, low=1.9, high=2.1)
        return TimedFiles(tuple(PairedRatio(each, interval) for each in logs), interval, nobody)

    monkeypatch.setattr(FileTimer, "timed", made_up)
    monkeypatch.setattr(pricer.Pricer, "_node_times", lambda _self: {})
    for name, few in (("DRAWN", 12), ("ADDED", 4)):
        monkeypatch.setattr(pricer, name, few)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return files


def test_a_network_alone_is_priced_and_kept(tmp_path: Path, timed: list[str]) -> None:
    """Random samples stand for its data; a second call measures nothing, a fresh one all again."""
    Project(tmp_path)
    arguments: dict[str, Any] = {"inputs": ["1,12,12"], "moves": ["blocks"]}
    found = api.profile(tmp_path / "model.py", **arguments)
    assert (found.network, found.precision, found.whole.value) == ("Toy", "fp32", 2.0)
    assert sorted(probe.dropped for probe in found.probes) == [BOTH[:1], BOTH, BOTH[1:]]
    assert len(timed) == 3
    assert found.fitted
    assert sum(each.layers for each in found.fitted.classes) == len(found.fitted.layers)
    (kept,) = (tmp_path / "cache" / "secateur" / "profiles").iterdir()
    assert CostProfile.model_validate_json(kept.read_text()) == found
    assert api.profile(tmp_path / "model.py", **arguments, fresh=True).probes == found.probes
    assert len(timed) == 6
    assert api.profile(tmp_path / "model.py", **arguments).probes == found.probes
    assert len(timed) == 6


def test_a_recipe_is_priced_as_it_ships(tmp_path: Path, timed: list[str]) -> None:
    """With the data, target, precision and rules that it has, and the network out of the store."""
    project = Project(tmp_path)
    project.stages("stages:\n  - {kind: prune, target: {latency: 0.5x}, moves: [blocks], keep: [blocks.0.*]}\n" + SHIPS)
    found = api.profile(project.recipe, threads=2, store=tmp_path / "store")
    assert found.precision == "int8 (u8u8)"
    assert (found.runtime, found.threads) == ("onnxruntime", 2)
    assert [probe.dropped for probe in found.probes] == [BOTH[1:]]
    assert len(timed) == 1
    again = api.plan(project.recipe, store=tmp_path / "store")
    assert [step.cached for step in again] == [True, False, False, False]


def test_the_whole_file_is_timed_with_smaller_images(tmp_path: Path, timed: list[str]) -> None:
    """Of data with a size, beside the prices of other moves; a network alone has no such data."""
    project = Project(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    data = ["data={source: folder, root: images, size: 64, channels: 1}"]
    terms: dict[str, Any] = {"moves": ["resolution"], "precision": "fp32"}
    found = api.profile(project.recipe, overrides=data, store=tmp_path / "store", **terms)
    assert [(each.side, each.ratio.value) for each in found.sizes] == [(56, 2.0), (48, 2.0), (40, 2.0), (32, 2.0)]
    assert (found.probes, found.fitted) == ((), None)
    assert len(timed) == 4
    with pytest.raises(InputError, match="found resolution with data whose images have no size"):
        api.profile(tmp_path / "model.py", inputs=["1,64,64"], moves=["resolution"])

"""Ranks for a time: the file that would ship is measured until it takes that, and what was timed is not timed again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from pipeline.core.errors import DeviceError, InputError, UnreachableError
from pipeline.core.stage import Context, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import factored_layers, load_network, write_original
from pipeline.pricing.form import FileForm
from pipeline.results.latency_target import LATENCY, LatencyTarget
from pipeline.stages.factorize import Factorize
from pipeline.stages.quantize import Quantize
from tests.unit.pricing.fake_timer import FakeTimer, Law, timers
from tests.unit.stages.prune_networks import DATA, artifact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.artifact import Artifact

    Run = Callable[..., tuple[Path, dict[str, Any]]]

DEFINITION = """
from torch import nn


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (1, 32, 40, 48, 40, 32)
        layers = [nn.Conv2d(one, two, 3, padding=1) for one, two in zip(widths, widths[1:])]
        self.layers, self.fc = nn.ModuleList(layers), nn.Linear(32, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.fc(x.mean((2, 3)))


def build():
    return Chain()
"""
LAW = Law(overhead=0.02, call=0.002, value=1e-4, granule=1)


def factorize(**settings: object) -> Factorize:
    """Return a stage on granules of 4, as it is with nothing behind it."""
    aim = {} if "target" in settings else {"target": {"latency": "0.7x"}}
    stage = Factorize.model_validate(
        {"kind": "factorize", "images": 24, "align": 4, "method": "channel", **aim, **settings}
    )
    return stage.following(())


def original(folder: Path) -> Artifact:
    """Write a network of several layers that take about as long."""
    (folder / "model.py").write_text(DEFINITION)
    (folder / "original").mkdir()
    torch.manual_seed(0)
    write_original(folder / "original", build_network(folder / "model.py", {}), folder / "model.py", {})
    return artifact(folder / "original")


def drawn(form: FileForm, network: nn.Module, batch: int | None = None) -> ModelProto:
    """Return a file with a node for each layer with weights, which is all that the made-up law reads."""
    del form, batch
    layers = {name: each for name, each in network.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))}
    weights = [
        helper.make_tensor(
            f"{name}.weight", TensorProto.FLOAT, each.weight.shape, bytes(4 * each.weight.numel()), raw=True
        )
        for name, each in layers.items()
    ]
    nodes = [helper.make_node("Conv", ["x", f"{name}.weight"], [name], name=name) for name in layers]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 6, 6]) for name in ("x", "y")]
    return helper.make_model(helper.make_graph(nodes, "drawn", ports[:1], ports[1:], weights))


@pytest.fixture
def made() -> list[FakeTimer]:
    """Return the timers that were made."""
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[FakeTimer]) -> Run:
    """Return what runs a stage with made-up files and times, and says where it lies and what changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(FileForm, "__call__", drawn)
    given = original(tmp_path)

    def done(stage: Factorize, name: str = "low", **settings: Any) -> tuple[Path, dict[str, Any]]:  # noqa: ANN401 - any of a timer
        monkeypatch.setattr("pipeline.pricing.opening.FileTimer", timers(made, **{"law": LAW, **settings}))
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        outcome = stage.run(given, Context(folder, 0, Target(), given, lambda: image_classifier(DATA)))
        return folder, json.loads(json.dumps(outcome.changed, allow_nan=False))

    return done


@pytest.mark.parametrize("factor", [0.85, 0.6])
def test_the_file_takes_what_was_asked_for(run: Run, factor: float) -> None:
    """By the law, on the network that is written; the record is that of a latency, with a move for each layer."""
    folder, found = run(factorize(target={"latency": f"{factor}x"}, method="auto"), noise=0.002)
    network = load_network(artifact(folder))
    whole = LAW.ms(drawn(None, load_network(artifact(folder.parent / "original"))))  # type: ignore[arg-type]
    ratio = LAW.ms(drawn(None, network)) / whole  # type: ignore[arg-type]
    assert 0.97 * factor - 0.01 <= ratio <= factor + 0.01
    told = LatencyTarget.model_validate(found[LATENCY])
    assert told.met
    assert told.ratio.value == pytest.approx(ratio, rel=0.01)
    assert told.precision == "fp32"
    assert told.whole_float_ms == told.whole_ms
    assert told.factor == factor
    assert told.model.trusted
    assert told.model.probes > 20
    assert (
        [move.name.split(" ")[0] for move in told.moves]
        == [*found["factorised"]]
        == [*factored_layers(artifact(folder))]
    )
    assert all(move.kind == "rank" and move.predicted_ms < 0 and move.after <= move.before for move in told.moves)
    before, after = (sum(each) for each in zip(*((x.before_ms, x.after_ms or 0) for x in told.layers), strict=True))
    assert after - before == pytest.approx(sum(move.predicted_ms for move in told.moves))
    assert "target" not in found
    assert not (folder / "probes").exists()


def test_another_run_finds_what_was_timed(run: Run, made: list[FakeTimer]) -> None:
    """Only the files that are tried are timed again, for another target too."""
    run(factorize(), "one")
    run(factorize(), "two")
    run(factorize(target={"latency": "0.8x"}), "three")
    first, second, third = (timer.measured for timer in made)
    assert first > 24
    assert 0 < second <= 12
    assert 0 < third <= 12


def test_a_device_that_goes_away_loses_nothing(
    run: Run, made: list[FakeTimer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is kept, and the next run goes on from there to the same result as one that was not stopped."""
    with pytest.raises(DeviceError, match="the board went away"):
        run(factorize(), lasts=4)
    _, found = run(factorize())
    assert made[0].measured + made[1].measured < 24 + 20
    assert made[0].measured >= 12
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    _, unbroken = run(factorize())
    assert found["factorised"] == unbroken["factorised"]


def test_milliseconds_count_from_the_whole_file_as_it_is_now(run: Run) -> None:
    """A time is turned into a factor of the given network's file; more than that takes is refused."""
    whole = LAW.ms(drawn(None, load_network(artifact(run(factorize())[0].parent / "original"))))  # type: ignore[arg-type]
    _, found = run(factorize(target={"latency": f"{0.75 * whole:.6f}ms"}), "time")
    told = LatencyTarget.model_validate(found[LATENCY])
    assert told.met
    assert told.factor == pytest.approx(0.75, abs=0.01)
    with pytest.raises(InputError, match=r"the whole network's file in fp32 takes .* ms already"):
        run(factorize(target={"latency": f"{1.1 * whole:.6f}ms"}), "more")


def test_a_time_below_the_floor_is_refused_with_what_is_left(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no layer that only gets dearer is factorised, whatever the target."""
    with pytest.raises(UnreachableError, match=r"cannot be reached by factors: .* Ask for 0\.\d+x or more") as refused:
        run(factorize(target={"latency": "0.03x"}))
    found = re.search(r"about (0\.\d+)x", str(refused.value))
    assert found
    floor = float(found[1])
    _, near = run(factorize(target={"latency": f"{1.008 * floor:.4f}x"}), "near")  # less than is aimed at is not left
    assert near[LATENCY]["ratio"]["value"] == pytest.approx(floor, rel=0.05)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    dear = Law(overhead=0.02, call=3.0, value=1e-6, granule=1)
    with pytest.raises(UnreachableError, match="No factors make it faster"):
        run(factorize(target={"latency": "0.9x"}), "dear", law=dear)


def test_a_plan_says_what_is_timed() -> None:
    """In the precision that ships; a warning where another one is asked for; timing where there is a latency."""
    target, stage = Target(), Factorize.model_validate({"kind": "factorize", "target": {"latency": "0.7x"}})
    later = (Quantize.model_validate({"kind": "quantize", "engine": "onnxruntime", "scheme": "u8s8"}),)
    pricing, cost, int8 = stage.remarks(later, target).notes
    assert pricing.startswith(
        "priced as int8 (u8s8) in onnxruntime on local, 1 thread; 0.7x of the given network's file"
    )
    assert "one operator more" in cost
    assert int8.startswith("in int8 each leg more is requantized")
    assert stage.remarks((), target).notes[0].startswith("priced as fp32")
    (warning,) = stage.model_copy(update={"precision": "fp32"}).remarks(later, target).warnings
    assert "priced in fp32, but the quantize stage after it makes int8" in warning
    assert stage.measures
    assert stage.computes
    assert stage.unmet(Target(runtime="torch"))[0][0] == "target"
    keys = stage.following(later).model_dump(mode="json")
    assert keys["precision"] == "int8"
    assert keys["priced"]["scheme"] == "u8s8"
    assert "priced" not in Factorize.model_validate({"kind": "factorize", "target": {"macs": 0.5}}).model_dump()


@pytest.mark.slow
def test_real_files_are_made_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8, with a few states: what is timed are quantized files with the legs of those layers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.pricing.ranks.PROBES", 3)
    made: list[FakeTimer] = []
    monkeypatch.setattr("pipeline.pricing.opening.FileTimer", timers(made, law=LAW))
    given = original(tmp_path)
    given = given.model_copy(update={"inputs": (given.inputs[0].model_copy(update={"name": "input"}),)})
    later = (Quantize.model_validate({"kind": "quantize", "engine": "onnxruntime"}),)
    settings = {"align": 4, "images": 24, "method": "channel"}
    stage = Factorize.model_validate({"kind": "factorize", "target": {"latency": "0.9x"}, **settings})
    (folder := tmp_path / "low").mkdir()
    outcome = stage.following(later).run(given, Context(folder, 0, Target(), given, lambda: image_classifier(DATA)))
    told = LatencyTarget.model_validate(outcome.changed[LATENCY])
    assert told.precision.startswith("int8")
    assert told.ratio.value < 1
    assert told.whole_float_ms
    assert told.whole_float_ms.value != told.whole_ms.value  # a file of its own, which has no integers
    assert all(move.bought.endswith("of its operations") for move in told.moves)
    assert made[0].measured >= 3

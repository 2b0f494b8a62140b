"""Factorize meets its budget, says what it did and left, and leaves a network that the other stages work on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.compress.pruning.cost import count_cost
from pipeline.core.artifact import Artifact, payload_digest
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Outcome, Target
from pipeline.data.arrays import image_classifier
from pipeline.measure.statistics import LogRatio
from pipeline.network.masks import sparse_names
from pipeline.network.stored import factored_layers, load_network
from pipeline.onnx_graph.file import read_onnx
from pipeline.pricing.timing import FileTimer, PairedRatio, TimedFiles
from pipeline.results.run import Interval
from pipeline.stages.export import Export
from pipeline.stages.factorize import Factorize
from pipeline.stages.factorize.adoption import LayerTime
from pipeline.stages.finetune import Finetune
from pipeline.stages.prune import Prune
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.sparsify import Sparsify
from tests.unit.stages.prune_networks import DATA, original

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.stage import Stage

    Run = Callable[..., tuple[Artifact, dict[str, Any]]]


def factorize(**settings: object) -> Factorize:
    """Return a stage on granules of 4 and 40 images."""
    aim = {} if "target" in settings else {"target": {"macs": 0.6}}
    return Factorize.model_validate({"kind": "factorize", "align": 4, "images": 40, **aim, **settings})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return what runs a stage on an artifact: what it made, and what changed."""

    def done(stage: Stage, given: Artifact, name: str) -> tuple[Artifact, dict[str, Any]]:
        folder = tmp_path / name
        folder.mkdir()
        outcome: Outcome = stage.run(given, Context(folder, 0, Target(), given, lambda: image_classifier(DATA)))
        form = outcome.form or "torch"
        digest = payload_digest(form, folder)
        made = Artifact(form=form, folder=folder, digest=digest, inputs=outcome.inputs, outputs=outcome.outputs)
        return made, json.loads(json.dumps(outcome.changed, allow_nan=False))

    return done


IMAGE = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cost", ["macs", "parameters"])
@pytest.mark.parametrize("method", ["auto", "spatial", "channel", "tucker"])
def test_the_budget_is_met(tmp_path: Path, run: Run, cost: str, method: str) -> None:
    """Counted on the network that is written; the record says the same, layer by layer, and what was left and why."""
    given = original(tmp_path)
    made, found = run(factorize(method=method, target={cost: 0.6}), given, "low")
    before, after = (count_cost(load_network(each), IMAGE) for each in (given, made))
    assert getattr(after, cost) <= 0.6 * getattr(before, cost)
    assert getattr(after, cost) > 0.4 * getattr(before, cost)
    for key in ("macs", "parameters"):
        assert found[key] == {"before": getattr(before, key), "after": getattr(after, key)}
        saved = sum(each[key]["before"] - each[key]["after"] for each in found["factorised"].values())
        assert found[key]["before"] - found[key]["after"] == saved
        assert all(each[key]["after"] < each[key]["before"] for each in found["factorised"].values())
    assert found["target"]["reached"] == pytest.approx(getattr(after, cost) / getattr(before, cost))
    kinds = {each["kind"] for each in found["factorised"].values()}
    assert kinds <= ({"svd", method} if method != "auto" else {"svd", "spatial", "channel", "tucker"})
    assert all(rank % 4 == 0 for each in found["factorised"].values() for rank in each["ranks"])
    assert all(0 < each["error"] < 1 for each in found["factorised"].values())
    left = [name for names in found["left"].values() for name in names]
    assert sorted([*left, *found["factorised"]]) == ["block.0", "block.3", "fc", "stem.0"]
    assert factored_layers(made) == tuple(found["factorised"])


def test_the_network_is_plain_layers_and_its_norms_are_renewed(tmp_path: Path, run: Run) -> None:
    """A Sequential of convolutions in the layer's place; statistics are those of what comes in now."""
    given = original(tmp_path)
    made, found = run(factorize(method="spatial"), given, "low")
    network: Any = load_network(made)
    legs = network.block[0]
    rank = found["factorised"]["block.0"]["ranks"][0]
    assert isinstance(legs, nn.Sequential)
    assert [(each.kernel_size, each.padding, each.bias is None) for each in legs] == [
        ((3, 1), (1, 0), True),
        ((1, 3), (0, 1), False),
    ]
    assert legs[0].out_channels == legs[1].in_channels == rank
    feeds = image_classifier(DATA).feeds("train", range(40))
    seen = []
    network.block[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        network(torch.from_numpy(next(iter(feeds.values()))))
    torch.testing.assert_close(network.block[1].running_mean, seen[0].mean((0, 2, 3)), rtol=0, atol=1e-3)
    before: Any = load_network(given)
    assert not torch.allclose(network.block[1].running_mean, before.block[1].running_mean, atol=0.05)


def test_whitening_loses_less_of_the_outputs(tmp_path: Path, run: Run) -> None:
    """At the same ranks, on the images: the recorded errors of whitened layers are those of their outputs."""
    given = original(tmp_path, "Attention")
    feeds = torch.from_numpy(next(iter(image_classifier(DATA).feeds("train", range(40)).values())))
    outputs = {}
    for whiten in (True, False):
        stage = factorize(target={"parameters": 0.75}, whiten=whiten, keep=["embed", "head", "project"])
        made, found = run(stage, given, f"white {whiten}")
        assert [*found["factorised"]] == ["qkv"]
        network: Any = load_network(made)
        first: Any = load_network(given)
        assert isinstance(network.qkv, nn.Sequential)
        with torch.no_grad():
            hidden = first.norm(first.embed(feeds).flatten(2).transpose(1, 2))
            wanted = first.qkv(hidden) - first.qkv.bias
            lost = float((network.qkv(hidden) - first.qkv(hidden)).square().sum() / wanted.square().sum())
        outputs[whiten] = lost
        if whiten:
            assert lost == pytest.approx(found["factorised"]["qkv"]["error"], rel=1e-3)
    assert outputs[True] < 0.9 * outputs[False]


@pytest.mark.parametrize("kind", ["Small", "Attention"])
def test_later_stages_work_on_the_legs(tmp_path: Path, run: Run, kind: str) -> None:
    """Trained, pruned with a certificate inside and outside the legs, exported, quantized both ways."""
    given = original(tmp_path, kind)
    named = given.model_copy(update={"inputs": (given.inputs[0].model_copy(update={"name": "input"}),)})
    low, found = run(factorize(target={"macs": 0.7}, images=24), named, "low")
    names = [*found["factorised"]]
    training = {"epochs": 1, "batch": 8, "learning_rate": 0.01}
    tuned, _ = run(Finetune.model_validate({"kind": "finetune", **training}), low, "tuned")
    pruned, found = run(Prune.model_validate({"kind": "prune", "ratio": 0.4, "align": 2}), tuned, "pruned")
    assert found["certificate"]
    thin, fat = load_network(pruned), load_network(tuned)

    def width(network: nn.Module, leg: str, dim: int) -> int:
        return int(network.get_parameter(f"{leg}.weight").shape[dim])

    for name in names:
        assert width(thin, f"{name}.0", 0) == width(thin, f"{name}.1", 1)
    assert any(width(thin, f"{name}.0", 0) < width(fat, f"{name}.0", 0) for name in names)
    assert any(width(thin, f"{name}.1", 0) < width(fat, f"{name}.1", 0) for name in names)
    assert any(width(thin, f"{name}.0", 1) < width(fat, f"{name}.0", 1) for name in names)
    onnx, _ = run(Export.model_validate({"kind": "export", "to": "onnx"}), pruned, "onnx")
    run(Quantize.model_validate({"kind": "quantize", "images": 16, "on_far": "keep"}), onnx, "int8")
    aware = {"kind": "quantize-aware-finetune", "images": 16, "on_far": "keep", **training}
    made, _ = run(QuantizeAwareFinetune.model_validate(aware), pruned, "aware")
    session = onnxruntime.InferenceSession(str(made.file))
    assert np.isfinite(session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()[:1]})[0]).all()


def test_a_second_time_merges_back_what_costs_too_much(tmp_path: Path, run: Run) -> None:
    """Legs that lost their outer channels are one layer again, of the same outputs; others stay as they are."""
    given = original(tmp_path)
    low, first = run(factorize(method="channel", keep=["stem.0", "fc", "block.3"]), given, "low")
    rank = first["factorised"]["block.0"]["ranks"][0]
    thin = Prune.model_validate(
        {"kind": "prune", "allocation": "rates", "rates": {"block.0.1": 0.85}, "align": 1, "floor": 0.01}
    )
    pruned, _ = run(thin, low, "thin")
    legs: Any = load_network(pruned)
    assert legs.block[0][1].out_channels < rank
    made, found = run(factorize(target={"parameters": 0.95}, method="svd", align=1), pruned, "again")
    assert found["merged_back"] == ["block.0"]
    network: Any = load_network(made)
    assert isinstance(network.block[0], nn.Conv2d)
    value = torch.randn(2, 16, 6, 6)
    torch.testing.assert_close(network.block[0](value), legs.block[0](value), rtol=1e-4, atol=1e-5)
    assert "block.0" not in factored_layers(made)
    kept, found = run(factorize(target={"parameters": 0.9}, align=1, method="channel"), low, "kept")
    assert found["left"]["is factorised already"] == ["block.0.0", "block.0.1"]
    assert "merged_back" not in found
    assert isinstance(load_network(kept).get_submodule("block.0"), nn.Sequential)


def test_pairs_survive_a_prune_that_writes_the_network_anew(tmp_path: Path, run: Run) -> None:
    """Twice; then they are merged back, with nothing else to do, into a layer that computes the same."""
    low, _ = run(
        factorize(method="channel", target={"macs": 0.7}, keep=["stem", "out"]), original(tmp_path, "Stated"), "low"
    )
    assert factored_layers(low) == ("conv",)
    rates = {"conv.1": 0.5, "stem": 0.4}
    thin = Prune.model_validate({"kind": "prune", "allocation": "rates", "rates": rates, "align": 1, "floor": 0.01})
    once, told = run(thin.model_copy(update={"rates": {**rates, "last": 0.5}}), low, "once")
    assert told["applied"].startswith("rewritten: ")
    assert factored_layers(once) == ("conv",)
    assert isinstance(load_network(once).get_submodule("conv"), nn.Sequential)
    twice, told = run(thin.model_copy(update={"rates": {**rates, "last": 0.5}}), once, "twice")
    assert told["applied"].startswith("rewritten: ")
    assert factored_layers(twice) == ("conv",)
    alone = {"method": "svd", "align": 1, "keep": ["stem", "out", "last"]}
    made, found = run(factorize(target={"parameters": 0.99}, **alone), twice, "again")
    assert (found["merged_back"], found["factorised"]) == (["conv"], {})
    assert factored_layers(made) == ()
    legs, network = load_network(twice), load_network(made)
    assert isinstance(network.get_submodule("conv"), nn.Conv2d)
    torch.testing.assert_close(network(IMAGE), legs(IMAGE), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"0.1 of the macs cannot be reached: .* 0 layers and conv merged back 0\.\d+"):
        run(factorize(target={"macs": 0.1}, **alone), twice, "too much")


def test_what_cannot_be_is_refused_in_words(tmp_path: Path, run: Run) -> None:
    """No rank below break-even, a target out of reach, nothing gained, a layer that does not exist, too few images."""
    given = original(tmp_path)
    for number, (settings, error, said) in enumerate(
        [
            (
                {"align": 32},
                InputError,
                "rank above break-even everywhere.*multiple of 32 is below break-even: 4 layers",
            ),
            (
                {"target": {"macs": 0.05}},
                InputError,
                r"0.05 of the macs cannot be reached: with the least rank in each",
            ),
            ({"target": {"energy": 0.999999}, "align": 1}, StageError, "factorises no layer of"),
            ({"keep": ["nowhere"]}, InputError, "nowhere"),
            ({"keep": ["*"]}, InputError, "named in keep: 4 layers"),
            ({"images": 41}, InputError, "images is 41, the training split has 40"),
        ]
    ):
        with pytest.raises(error, match=said):
            run(factorize(**settings), given, str(number))


def test_sparse_layers_are_left(tmp_path: Path, run: Run) -> None:
    """A product would fill their zeros. Legs can be made sparse, and are left then, too."""
    given = original(tmp_path)
    sparse = Sparsify.model_validate({"kind": "sparsify", "density": 0.5, "keep": ["block.0", "fc", "stem.0"]})
    thin, _ = run(sparse, given, "thin")
    made, found = run(factorize(align=1), thin, "low")
    (reason,) = (reason for reason, names in found["left"].items() if names == ["block.3"])
    assert reason.startswith("its weights are sparse")
    assert sparse_names(made) == ("block.3.weight",) == sparse_names(thin)
    low, _ = run(factorize(keep=["block.3"]), given, "first")
    legs, _ = run(Sparsify.model_validate({"kind": "sparsify", "density": 0.5}), low, "legs")
    assert {"block.0.0.weight", "block.0.1.weight"} <= {*sparse_names(legs)}
    with pytest.raises(InputError, match=r"Nothing can be factorised.*its weights are sparse.*: 5 layers"):
        run(factorize(target={"macs": 0.95}, align=1), legs, "again")


def test_energy_is_kept_in_each_layer(tmp_path: Path, run: Run) -> None:
    """Every factorised layer keeps at least the share that was asked for."""
    _, found = run(factorize(target={"energy": 0.8}, align=1, method="channel"), original(tmp_path), "low")
    assert found["factorised"]
    assert all(each["error"] <= 0.2 + 1e-6 for each in found["factorised"].values())
    assert found["target"] == {"of": "energy", "asked": 0.8}


def test_only_what_is_faster_is_adopted(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each layer's time alone in factors; the others are left with their times. With none, the network stays."""
    given = original(tmp_path)
    ratios = {"block.0": (0.9, 0.88, 0.92)}
    timed: list[str] = []

    def pretend(model: nn.Module, legs: dict[str, nn.Sequential], *_: object) -> dict[str, LayerTime]:
        assert all(isinstance(model.get_submodule(name), nn.Conv2d | nn.Linear) for name in legs)
        timed.extend(legs)
        found = {name: ratios.get(name, (1.02, 0.97, 1.07)) for name in legs}
        return {name: LayerTime(Interval(value=v, low=a, high=b)) for name, (v, a, b) in found.items()}

    monkeypatch.setattr("pipeline.stages.factorize.factorizing.timed_alone", pretend)
    made, found = run(factorize(target={"macs": 0.15}, align=1, adopt="measured"), given, "some")
    assert len(timed) > 1
    assert [*found["factorised"]] == ["block.0"] == [*factored_layers(made)]
    assert found["factorised"]["block.0"]["time"] == "0.900x [0.880, 0.920] of the time"
    assert "its file is not faster: 1.020x [0.970, 1.070] of the time" in found["left"]
    ratios.clear()
    made, found = run(factorize(target={"macs": 0.15}, align=1, adopt="measured"), given, "none")
    assert found["factorised"] == {}
    for name, tensor in load_network(given).state_dict().items():
        assert tensor.equal(load_network(made).state_dict()[name])


def test_each_layer_is_timed_alone_in_a_file_of_its_own(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the file without factors: each has the legs of one layer, and the network's own other layers."""
    weights: list[list[tuple[int, ...]]] = []

    def pretend(_: object, whole: Path, files: list[Path], seconds: float) -> TimedFiles:
        assert seconds == 15
        for file in (whole, *files):
            tensors = [tuple(each.dims) for each in read_onnx(file).graph.initializer if len(each.dims) == 4]
            weights.append(sorted(tensors))
        one = PairedRatio(LogRatio(0.0, 0.0), Interval(value=0.9, low=0.8, high=0.95))
        return TimedFiles((one,) * len(files), Interval(value=1, low=1, high=1), None)  # type: ignore[arg-type]

    monkeypatch.setattr(FileTimer, "timed", pretend)
    given = original(tmp_path)
    named = given.model_copy(update={"inputs": (given.inputs[0].model_copy(update={"name": "input"}),)})
    _, found = run(factorize(target={"macs": 0.15}, align=1, adopt="measured"), named, "timed")
    layers = {"stem.0": (16, 1, 3, 3), "block.0": (24, 16, 3, 3), "block.3": (16, 24, 1, 1)}
    whole, *others = weights
    assert whole == sorted(layers.values())
    tried = [name for name in found["factorised"] if name in layers]
    assert len(others) == len(found["factorised"]) >= 2
    for name, other in zip(tried, others, strict=False):
        assert layers[name] not in other
        assert all(shape in other for each, shape in layers.items() if each != name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": {}}, "found 0 targets"),
        ({"target": {"macs": 0.5, "energy": 0.9}}, "found 2 targets"),
        ({"target": {"latency": "1.2x"}}, "allowed: below 1x"),
        ({"target": {"latency": "0.5x"}, "adopt": "measured"}, "found adopt measured with target.latency"),
        ({"target": {"macs": 0.5}, "precision": "int8"}, "found precision, allowed: precision with target"),
        ({"target": {"macs": 1.5}}, "ratio"),
        ({"method": "cp"}, "auto"),
        ({"min_rank": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    """With what was found and what is allowed."""
    with pytest.raises(ValidationError, match=said):
        factorize(**wrong)


def test_a_plan_says_what_to_expect() -> None:
    """Operations and overheads; int8's requantization where that follows; timing where it is asked for."""
    target = Target()
    (note,) = factorize().remarks((), target).notes
    assert note.startswith("leaves 0.6 of macs; time falls by less: a factorised layer is one operator more")
    later = (Quantize.model_validate({"kind": "quantize", "engine": "onnxruntime"}),)
    notes = factorize(adopt="measured").remarks(later, target).notes
    assert "in int8 each leg more is requantized" in notes[1]
    assert notes[2] == "adopt: measured times FP32 files; the int8 file may gain less or more"
    assert factorize(adopt="measured").unmet(Target(runtime="torch"))[0][0] == "adopt"
    assert factorize(adopt="measured").measures
    assert not factorize().measures

"""The share stage: what it makes, what later stages make of it, resumption, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.analysis.stored_weights import onnx_weights
from pipeline.compress.quantization.precisions.block_weights import packed_blocks
from pipeline.core.errors import InputError, StageError
from pipeline.core.runtimes import FORMS
from pipeline.core.sharing import Sharing
from pipeline.core.stage import Target
from pipeline.network.clusters import codebooks_of, sharing_rules
from pipeline.network.stored import load_network, write_network
from pipeline.recipe import chain_problems
from pipeline.stages.export import Export
from pipeline.stages.factorize import Factorize
from pipeline.stages.finetune import Finetune
from pipeline.stages.prune import Prune
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.share import Share
from pipeline.stages.sparsify import Sparsify
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context, Outcome, Stage

    Run = Callable[..., tuple[Artifact, Outcome]]
    Make = Callable[..., Context]

NAMES = ("stem.weight", "conv.weight", "fc.weight")
TRAINING = {"epochs": 3, "batch": 8, "learning_rate": 0.02, "warmup": 0}
AWARE = {"kind": "quantize-aware-finetune", **TRAINING, "epochs": 2, "images": 16}


def stage(**settings: Any) -> Share:  # noqa: ANN401 - any setting of a recipe
    """Return the stage with eight clusters, of any values unless the settings name a grid."""
    return Share.model_validate({"kind": "share", "clusters": 8, "grid": "float", **settings})


def values(artifact: Artifact) -> list[int]:
    """Return how many values the codebooks of stem, conv and fc have."""
    books = codebooks_of(load_network(artifact), sharing_rules(artifact))
    return [books[name].values.numel() for name in NAMES if name in books]


@pytest.fixture
def sparse(run_stage: Run, network: Artifact) -> Artifact:
    """Return the toy network with six tenths of its weights at zero."""
    given = Sparsify.model_validate({"kind": "sparsify", "density": 0.4})
    made: Artifact = run_stage(given, network, "sparse")[0]
    return made


def test_weights_share_values_and_zeros_keep_their_own(run_stage: Run, sparse: Artifact) -> None:
    """Eight in each layer; what changed tells values, weights and error; a layer that is kept shares nothing."""
    made, outcome = run_stage(stage(keep=["fc"]), sparse, "shared")
    before, after = load_network(sparse), load_network(made)
    assert values(made) == [8, 8]
    assert set(sharing_rules(made)) == set(NAMES[:2])
    for name in NAMES:
        assert torch.equal(before.get_parameter(name) == 0, after.get_parameter(name) == 0)
    told = outcome.changed["layers"]["conv.weight"]
    assert told["values"] == 8
    assert told["weights"] == 576
    assert 0 < told["error"] < 0.3
    assert torch.equal(before.get_parameter("fc.weight"), after.get_parameter("fc.weight"))


@pytest.mark.parametrize("grid", ["float", "int8", "int7"])
def test_later_training_moves_values_and_keeps_clusters(run_stage: Run, sparse: Artifact, grid: str) -> None:
    """With an average of the weights too, which is not told of clusters."""
    shared, _ = run_stage(stage(grid=grid), sparse, "shared")
    tuned, _ = run_stage(Finetune.model_validate({"kind": "finetune", **TRAINING, "ema": 0.5}), shared, "tuned")
    assert sharing_rules(tuned) == sharing_rules(shared)
    assert max(values(tuned)) <= 8
    before, after = (load_network(each).get_parameter("conv.weight").detach() for each in (shared, tuned))
    assert not torch.equal(before, after)
    assert torch.equal(before == 0, after == 0)


@pytest.mark.parametrize("way", ["quantize", "aware"])
def test_the_int8_file_has_the_codebooks(run_stage: Run, sparse: Artifact, way: str) -> None:
    """Counted in the file: after training behind it, with a norm that is folded in, also where int8 is trained."""
    shared, _ = run_stage(stage(grid="int8"), sparse, "shared")
    tuned, _ = run_stage(Finetune.model_validate({"kind": "finetune", **TRAINING}), shared, "tuned")
    if way == "aware":
        given = QuantizeAwareFinetune.model_validate({**AWARE, "scheme": "u8s8", "on_far": "keep"})
        made, _ = run_stage(given, tuned, "int8")
    else:
        exported, _ = run_stage(Export.model_validate({"kind": "export", "to": "onnx"}), tuned, "export")
        given = Quantize.model_validate({"kind": "quantize", "scheme": "u8s8", "images": 16, "on_far": "keep"})
        made, _ = run_stage(given, exported, "int8")
    found = Sharing.of(onnx_weights(made.file))
    assert all(each.quantized and each.sizes <= 8 for each in found.layers.values())
    assert found.parted([(each.weights, 8) for each in found.layers.values()]) is None
    assert found.parted([(576, 2)]) == 576


@pytest.mark.parametrize("scheme", ["u8s8", "u8s8-reduced"])
def test_the_file_of_dynamic_int8_has_the_codebooks(run_stage: Run, sparse: Artifact, scheme: str) -> None:
    """Those of its linear layers, on their grid; convolutions, which it leaves in float, have values off any grid."""
    dynamic = Quantize.model_validate(
        {"kind": "quantize", "precision": "int8-dynamic", "scheme": scheme, "on_far": "keep"}
    )
    shared, _ = run_stage(stage(grid="auto").following([dynamic]), sparse, "shared")
    levels = {"u8s8": 127, "u8s8-reduced": 64}[scheme]
    rules = sharing_rules(shared)
    assert [rules[name].grid for name in NAMES] == ["float", "float", "int8" if levels == 127 else "int7"]
    exported, _ = run_stage(Export.model_validate({"kind": "export", "to": "onnx"}), shared, "export")
    made, _ = run_stage(dynamic, exported, "dynamic")
    weights = onnx_weights(made.file)
    found = Sharing.of(weights).layers
    (product,) = (each for each in found.values() if each.quantized)
    assert product.weights == 24
    assert product.values <= 8
    book = codebooks_of(load_network(shared), rules)["fc.weight"]
    (integers,) = (each for name, each in weights.items() if found[name].quantized)
    assert {*np.unique(integers)} == {round(value * levels) for value in book.values.tolist()}
    conv = next(each for each in found.values() if each.weights == 576)
    assert (conv.values, conv.quantized) == (8, False)


def test_weights_in_blocks_part_clusters() -> None:
    """What the warning says: each block has a scale of its own, so that eight values are more integers."""
    random, values = np.random.default_rng(0), np.array([-1, -0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 1])
    weights = random.choice(values, (256, 8), p=[0.02, 0.08, 0.2, 0.2, 0.2, 0.2, 0.08, 0.02]).astype(np.float32)
    integers, _ = packed_blocks(weights, 8, 32)
    assert np.unique(integers).size > values.size


def test_a_schedule_trains_codebooks_and_resumes_to_the_same_bytes(sparse: Artifact, make_context: Make) -> None:
    """Killed in the second and the third epoch; on a grid the values end on it."""
    given = stage(grid="int8", schedule={**TRAINING, "ema": 0.3})
    whole = make_context("whole")
    changed = given.run(sparse, whole).changed
    made = sparse.model_copy(update={"folder": whole.folder})
    for book in codebooks_of(load_network(made), sharing_rules(made)).values():
        steps = book.values * 127
        assert torch.allclose(steps, steps.round(), atol=1e-3)
    killed = make_context("killed")
    for reports in (10, 7):  # three of the codebooks, then five steps an epoch
        object.__setattr__(killed, "progress", Stops(reports))
        with pytest.raises(KeyboardInterrupt):
            given.run(sparse, killed)
    object.__setattr__(killed, "progress", last := Stops(10_000))
    assert json.loads(json.dumps(given.run(sparse, killed).changed)) == json.loads(json.dumps(changed))
    assert any("resumed after epoch" in note for note in last.notes)
    for name in FORMS["torch"].files:
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_network_with_more_values_is_not_written(run_stage: Run, sparse: Artifact, make_context: Make) -> None:
    """A stage that parts clusters fails, with the parameter."""
    shared, _ = run_stage(stage(), sparse, "shared")
    model = load_network(shared)
    with torch.no_grad():
        weight = model.get_parameter("conv.weight")
        weight[tuple((weight != 0).nonzero()[0])] += 0.01
    with pytest.raises(StageError, match=r"clusters are lost in conv.weight: found 9 values, allowed: the 8"):
        write_network(make_context("parted").folder, model, parent=shared)


def test_the_grid_is_that_of_the_later_stages() -> None:
    """8-bit weights, 7-bit ones of a reduced scheme, or any values."""
    auto = stage(grid="auto")
    export = Export.model_validate({"kind": "export", "to": "onnx"})
    assert auto.following([export]).grid == "float"
    for scheme, grid in (("u8s8", "int8"), ("u8s8-reduced", "int7")):
        int8 = Quantize.model_validate({"kind": "quantize", "scheme": scheme})
        assert auto.following([export, int8]).grid == grid
        dynamic = int8.model_copy(update={"precision": "int8-dynamic"})
        assert auto.following([export, dynamic]).grid == f"{grid}-products"
        assert auto.following([export, int8.model_copy(update={"precision": "int8-weights"})]).grid == "float"
    assert stage(grid="int8").following([export]).grid == "int8"


def test_a_plan_says_what_clusters_bring() -> None:
    """No time; and that summed gradients and sgd do not go together."""
    target = Target.model_validate({"runtime": "openvino"})
    found = stage(grid="auto").remarks([], target)
    assert "clusters bring size once a file is packed, and no time: openvino" in found.notes[0]
    assert found.warnings == ()
    tuned = Finetune.model_validate({"kind": "finetune", **TRAINING, "optimizer": "sgd"})
    assert "set gradient to mean" in stage().remarks([tuned], target).warnings[0]
    assert stage(gradient="mean").remarks([tuned], target).warnings == ()
    for precision, said in (("int8", "of int8 weights"), ("int8-dynamic", "of int8 weights in linear layers, and any")):
        later = Quantize.model_validate({"kind": "quantize", "scheme": "u8s8", "precision": precision})
        found = stage(grid="auto").remarks([later], target)
        assert f"codebooks take the values {said}" in found.notes[0]
        assert found.warnings == ()
    later = Quantize.model_validate({"kind": "quantize", "precision": "int8-weights"})
    (warning,) = stage(grid="auto").remarks([later], target).warnings
    assert warning.startswith("int8-weights has a scale for each block of 32 weights, so that equal weights become")


PARTING: list[tuple[type[Stage], dict[str, Any], str, str]] = [
    (Prune, {"ratio": 0.5}, "kind", "prune removes weights that codebooks are scaled by"),
    (Factorize, {"target": {"macs": 0.5}}, "kind", "factorize replaces weights"),
    (Sparsify, {"density": 0.5}, "kind", "sparsify chooses weights one by one"),
    (Finetune, {"epochs": 1, "store": "float16"}, "store", "found float16, allowed after share: float32"),
    (QuantizeAwareFinetune, {"epochs": 1, "per_channel": False}, "per_channel", "allowed after share: true"),
]


@pytest.mark.parametrize(("kind", "settings", "key", "why"), PARTING)
def test_what_parts_clusters_is_refused_behind_them(
    kind: type[Stage], settings: dict[str, Any], key: str, why: str
) -> None:
    """With the reason; before them, and of whole blocks, it is allowed."""
    name = kind.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
    given = kind.model_validate({"kind": name, **settings})
    found = list(chain_problems([stage(), given]))
    assert [(place, where) for place, where, _ in found] == [(1, key)]
    assert why in found[0][2]
    remedy = "change per_channel, or remove share" if key == "per_channel" else "move share behind it"
    assert f"the clusters that share makes would be lost: {remedy}" in found[0][2]
    assert name == "quantize-aware-finetune" or list(chain_problems([given, stage()])) == []


def test_quantizing_one_by_one_is_refused_behind_clusters() -> None:
    """Recovery that rounds or scales weights; corrected biases are none of their business, nor is removing blocks."""
    export = Export.model_validate({"kind": "export", "to": "onnx"})
    for recover, problems in ((["adaround"], 1), (["equalize", "bias"], 1), (["bias"], 0), ([], 0)):
        given = Quantize.model_validate({"kind": "quantize", "recover": recover})
        assert len(list(chain_problems([stage(), export, given]))) == problems
    blocks = Prune.model_validate({"kind": "prune", "granularity": "blocks", "ratio": 0.5})
    assert list(chain_problems([stage(), blocks])) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "2"),
        ({"grid": "int4"}, "int4"),
        ({"schedule": {**TRAINING, "epochs": 0}}, "found 0, allowed: 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValidationError, match=message):
        stage(**settings)


def test_more_clusters_than_weights_are_refused(run_stage: Run, sparse: Artifact) -> None:
    """With the layer, and what to do."""
    with pytest.raises(
        InputError, match=r"clusters: stem: found 80 clusters for 72 weights; lower clusters, or name stem"
    ):
        run_stage(stage(clusters=80), sparse, "refused")
    with pytest.raises(InputError, match="keep: head matches no layer with weights"):
        run_stage(stage(keep=["head"]), sparse, "kept")


def test_values_of_a_file_are_counted() -> None:
    """Signs apart; whole numbers are those of quantized weights; layers in float are not held to clusters."""
    weights = {"a": np.array([1, -1, 2, 0], np.int8), "b": np.array([0.5, 0.25, 0.5, 0.1])}
    found = Sharing.of(weights)
    assert [(each.values, each.sizes, each.quantized) for each in found.layers.values()] == [
        (4, 3, True),
        (3, 3, False),
    ]
    assert found.parted([(4, 3)]) is None
    assert found.parted([(4, 2)]) is None  # it may be the one in float
    assert found.parted([(4, 2), (4, 2)]) == 4
    assert found.parted([(5, 2)]) is None

"""Masks last: training, pruning and rewriting keep zeros; a network that lost one is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.training.training import Hyperparameters, Regulariser, TrainingRun
from pipeline.core.artifact import Artifact
from pipeline.core.errors import InputError, StageError
from pipeline.network.definition import build_network
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network, write_network, write_original
from tests.unit.network.test_stored import LITERAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DEFINITION = """
from torch import nn


def build():
    layers = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
"""
CONV = "3.weight"


def artifact(folder: Path) -> Artifact:
    """Return the torch artifact in a folder."""
    return Artifact(form="torch", folder=folder, digest="", inputs=(), outputs=())


def stored(folder: Path, definition: str, names: Sequence[str]) -> tuple[Artifact, nn.Module]:
    """Return a network as an artifact whose named parameters have every third weight at zero."""
    folder.mkdir()
    (folder / "model.py").write_text(definition)
    for name in ("dense", "sparse"):
        (folder / name).mkdir()
    torch.manual_seed(0)
    model = build_network(folder / "model.py", {})
    write_original(folder / "dense", model, folder / "model.py", {})
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).view(-1)[::3] = 0
    write_network(folder / "sparse", model.eval(), parent=artifact(folder / "dense"), sparse=names)
    return artifact(folder / "sparse"), load_network(artifact(folder / "sparse"))


def test_names_are_stored_only_where_there_are_any(tmp_path: Path) -> None:
    """A dense network's files are what they were; masks are the weights that are not zero, by shape."""
    given, model = stored(tmp_path / "net", DEFINITION, [CONV])
    dense = json.loads((tmp_path / "net" / "dense" / "network.json").read_text())
    assert "sparse" not in dense
    assert sparse_names(artifact(tmp_path / "net" / "dense")) == ()
    assert sparse_names(given) == (CONV,)
    mask = masks_of(model, [CONV])[CONV]
    assert mask.dtype == torch.bool
    assert mask.shape == (6, 8, 3, 3)
    assert torch.equal(~mask.view(-1), torch.arange(432) % 3 == 0)


def test_a_zero_that_is_filled_is_refused_by_name(tmp_path: Path) -> None:
    """One weight in 144 zeros; a weight that was not zero may become so, and other parameters do what they want."""
    given, model = stored(tmp_path / "net", DEFINITION, [CONV])
    with torch.no_grad():
        model.get_parameter(CONV).view(-1)[1] = 0
        model.get_parameter("7.weight").fill_(1)
    (tmp_path / "more").mkdir()
    write_network(tmp_path / "more", model, parent=given)
    assert sparse_names(artifact(tmp_path / "more")) == (CONV,)
    with torch.no_grad():
        model.get_parameter(CONV).view(-1)[3] = 0.5
    with pytest.raises(StageError, match=r"3\.weight has lost 1 of its 144 zeros"):
        write_network(tmp_path / "more", model, parent=given)


def test_damaged_names_are_refused(tmp_path: Path) -> None:
    """What stands in the file by hand is checked."""
    given, _ = stored(tmp_path / "net", DEFINITION, [CONV])
    file = given.folder / "network.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "sparse": {"a": 1}}))
    with pytest.raises(InputError, match="sparse is no list of names"):
        sparse_names(given)
    with pytest.raises(InputError, match="no parameter other"):
        masks_of(nn.Linear(1, 1), ["other"])


class Steps:
    """A learner of random numbers: two steps an epoch, no validation that matters."""

    metric, higher_is_better, steps, layout = "accuracy", True, 2, torch.channels_last

    def batches(self, seed: int, epoch: int, device: torch.device) -> Iterator[Any]:
        """Yield noise."""
        generator = torch.Generator().manual_seed(seed + epoch)
        for _ in range(self.steps):
            yield (torch.randn(4, 1, 8, 8, generator=generator).to(device),), torch.arange(4, device=device) % 3

    def inputs(self, count: int, seed: int, device: torch.device) -> Iterator[Any]:
        """Yield noise."""
        del count
        yield from (each for each, _ in self.batches(seed, 0, device))

    def outputs(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:  # noqa: ANN401 - what it returns
        """Return logits."""
        return model(*inputs)

    def loss(self, outputs: Any, target: Any) -> torch.Tensor:  # noqa: ANN401
        """Return cross-entropy."""
        return nn.functional.cross_entropy(outputs, target)

    def evaluate(self, model: nn.Module, device: torch.device) -> tuple[float, float]:
        """Later epochs are better."""
        del model, device
        return 0.5, 0.0


class Fills(Regulariser):
    """Puts ones everywhere after each epoch."""

    def end_epoch(self, models: Sequence[nn.Module]) -> None:
        """Fill."""
        for model in models:
            model.get_parameter(CONV).data.fill_(1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_keeps_masks_whatever_moves_the_weights(tmp_path: Path, optimizer: Any, ema: float) -> None:  # noqa: ANN401
    """Momentum, weight decay, an average of the weights and a regulariser: after each epoch the zeros are zero."""
    _, model = stored(tmp_path / "net", DEFINITION, [CONV])
    masks = masks_of(model, [CONV])
    before = model.get_parameter(CONV).detach().clone()
    settings = Hyperparameters(3, 4, optimizer, 0.1, 0.1, 0.9, 0, ema, 0, "cosine", 0.0)
    training = TrainingRun(model, Steps(), settings, distillation=None, seed=0, regulariser=Fills() if ema else None)  # type: ignore[arg-type]
    training.hold(masks)
    while not training.done:
        training.run_epoch(lambda *_: None)
        assert not training.model.get_parameter(CONV)[~masks[CONV]].any()
    after = training.finish().get_parameter(CONV)
    assert torch.equal(after != 0, masks[CONV])
    assert not torch.equal(after, before)
    with pytest.raises(InputError, match="no parameter other of shape"):
        training.hold({"other": masks[CONV]})


def test_pruning_slices_masks(tmp_path: Path) -> None:
    """What is left of a sparse weight has the zeros of its rows and columns; others than those are refused."""
    given, model = stored(tmp_path / "net", DEFINITION, [CONV])
    captured = capture_graph(model, (torch.randn(2, 1, 8, 8),))
    kept = {"0": (0, 2, 5), "3": (1, 2, 3, 4)}
    pruned = prune_channels(captured, trace_channels(captured), model, kept)
    edits = [{"kind": "prune", "keep": pruned.plan.as_json()}]
    (tmp_path / "pruned").mkdir()
    write_network(tmp_path / "pruned", pruned.model, parent=given, edits=edits)
    found = load_network(artifact(tmp_path / "pruned")).get_parameter(CONV)
    before = load_network(given).get_parameter(CONV)
    assert torch.equal(found, before[[1, 2, 3, 4]][:, [0, 2, 5]])
    assert sparse_names(artifact(tmp_path / "pruned")) == (CONV,)
    with torch.no_grad():
        pruned.model.get_parameter(CONV).masked_fill_(found == 0, 0.1)
    with pytest.raises(StageError, match=r"3\.weight has lost"):
        write_network(tmp_path / "pruned", pruned.model, parent=given, edits=edits)


def test_a_rewritten_network_keeps_its_names(tmp_path: Path) -> None:
    """Its own code could not be kept: the names are those of the parameters in the definition that was written."""
    folder = tmp_path / "net"
    names = ["stem.weight", "qkv.weight", "out.weight", "head.weight"]
    given, model = stored(folder, LITERAL, names)
    captured = capture_graph(model, (torch.randn(2, 1, 12, 12),))
    graph = trace_channels(captured)
    kept = {group.name: tuple(range(group.width // 2)) for group in graph.groups}
    pruned = prune_channels(captured, graph, model, kept)
    assert pruned.rewritten
    (tmp_path / "pruned").mkdir()
    write_network(
        tmp_path / "pruned", pruned.model, parent=given, edits=[{"kind": "prune", "keep": pruned.plan.as_json()}]
    )
    assert set(sparse_names(artifact(tmp_path / "pruned"))) == set(names)
    found = load_network(artifact(tmp_path / "pruned"))
    assert all((found.get_parameter(name) == 0).float().mean() > 0.2 for name in names)

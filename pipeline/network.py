"""The torch artifact on disk: definition.py, network.json (arguments and structural plan) and weights.safetensors.

Loading builds the network from its definition, applies the plan's edits in order, and loads the tensors. A network
whose own code could not be kept comes with a new definition instead, written from its graph; `history` then has the
edits that are in it already. Nothing is pickled, so an artifact can be read with a text editor and opened without
trusting it any more than its definition.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch.fx import GraphModule

from pipeline.compress.definition import source
from pipeline.compress.surgery import PrunePlan, apply
from pipeline.core.errors import InputError
from pipeline.zoo import build, load_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.core.artifact import Artifact

NETWORK_FORMAT = 1


def load_network(artifact: Artifact) -> nn.Module:
    """Return the network of a torch artifact in eval mode, float32, on the CPU."""
    folder = artifact.folder
    content = json.loads((folder / "network.json").read_text())
    if content["format"] != NETWORK_FORMAT:
        message = f"{folder}/network.json has format {content['format']}, this version reads {NETWORK_FORMAT}"
        raise InputError(message)
    model = build(folder / "definition.py", {**content["arguments"], **content["without_pretrained"]})
    for edit in content["edits"]:
        apply(model, PrunePlan.from_json(edit["keep"]))
    load_weights(model, read_weights(folder / "weights.safetensors"), f"{folder}/weights.safetensors")
    return model.eval()


def load_other(definition: Path, weights: Path, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network from its definition and weight file, such as a teacher, in eval mode."""
    model = build(definition, arguments)
    load_weights(model, read_weights(weights), str(weights))
    return model.eval()


def _save(folder: Path, model: nn.Module, content: Mapping[str, Any], *, half: bool = False) -> None:
    (folder / "network.json").write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    save_tensors(model.state_dict(), folder / "weights.safetensors", half=half)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, *, half: bool = False) -> None:
    """Write tensors as safetensors, contiguous, from the CPU; with `half`, those of two dimensions or more as float16.

    Biases and norms stay in float32: running variances may lie outside float16's range.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    smaller = {name: tensor.half() for name, tensor in plain.items() if half and tensor.ndim > 1}
    save_file({**plain, **smaller}, file)


def write_network(
    folder: Path,
    model: nn.Module,
    *,
    parent: Artifact,
    edits: Sequence[Mapping[str, Any]] = (),
    half: bool = False,
) -> None:
    """Write a torch artifact's payload: the parent's definition and plan with `edits` appended, and the tensors.

    A graph module (of a rewritten network) is written as a definition of its own.

    Raises:
        StageError: the graph cannot be written as a plain file.
    """
    content = json.loads((parent.folder / "network.json").read_text())
    content["edits"] = [*content["edits"], *(dict(edit) for edit in edits)]
    if isinstance(model, GraphModule):
        history = [*content.get("history", ()), *content["edits"]]
        content |= {"arguments": {}, "without_pretrained": {}, "edits": [], "history": history}
        (folder / "definition.py").write_text(source(model, "A pruned network, rewritten."))
    else:
        (folder / "definition.py").write_bytes((parent.folder / "definition.py").read_bytes())
    _save(folder, model, content, half=half)


def write_original(folder: Path, model: nn.Module, definition: Path, arguments: Mapping[str, Any]) -> None:
    """Write the payload of the network that a recipe starts from.

    An argument `pretrained` is switched off for later loading: the weights that it brought lie in the artifact.
    """
    without = {"pretrained": False} if "pretrained" in arguments else {}
    (folder / "definition.py").write_bytes(definition.read_bytes())
    content = {
        "format": NETWORK_FORMAT,
        "arguments": dict(arguments),
        "without_pretrained": without,
        "edits": [],
    }
    _save(folder, model, content)

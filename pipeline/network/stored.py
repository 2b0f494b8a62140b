"""The torch artifact on disk: definition.py, network.json (arguments and structural plan) and weights.safetensors.

Loading builds the network from its definition, applies the plan's edits in order, and loads the tensors. A network
whose own code could not be kept comes with a new definition instead, written from its graph; `history` then has the
edits that are in it already, and `factored` names the factorised layers that it has. Nothing is pickled, so an artifact
can be read with a text editor and opened without trusting it any more than its definition.

What a network has beside its state_dict (see `outside_state`) lies with the tensors where building it anew
does not give it: every artifact is read back once it is written, and has to compute the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch.fx import GraphModule

from pipeline.compress.factorization.rejoining import rejoin_legs
from pipeline.compress.pruning.definition import definition_source
from pipeline.compress.state.kept import ADVICE, kept_state
from pipeline.compress.state.outside import differing_state, encoded_state, outside_state, split_state
from pipeline.compress.state.reproduction import (
    ROUNDING,
    different_attributes,
    example_for,
    left_unchanged,
    outputs_alike,
    own_randomness,
    random_layer,
    run_with,
    same_state,
)
from pipeline.core.artifact import Artifact
from pipeline.core.code_inputs import NETWORK_FILE, digests_of, recorded_dependencies
from pipeline.core.entry import ARTIFACT_FILE
from pipeline.core.errors import InputError
from pipeline.core.problems import first_names
from pipeline.core.reading import read_object, read_value
from pipeline.network.clusters import SHARED, require_clusters, rules_as_values, still_shared, stored_rules
from pipeline.network.definition import build_network, initialise_lazy_layers
from pipeline.network.edits import UNFIT, apply_edit, factored_names
from pipeline.network.masks import SPARSE, require_zeros, still_sparse, stored_names
from pipeline.network.weights import LISTED, load_weights, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sharing.codebooks import SharingRule
    from pipeline.compress.state.outside import Place, Value
    from pipeline.compress.state.reproduction import Example
    from pipeline.core.artifact import TensorSpec

_NETWORK_FORMAT = 1
#: The key of network.json for factorised layers that the definition itself has; absent where there are none.
_FACTORED = "factored"
_DEFINITION_FILE = "definition.py"
AGAIN = "run the recipe again"
#: Of the random numbers while networks are read back: not those that a run starts with.
_FIRST_SEED = 1_000_003
TRIES = 3


def stored_artifact(folder: Path) -> Artifact:
    """Return the torch artifact that lies in a folder, wherever it was made.

    Raises InputError where its artifact.json is missing or damaged, or it is of another form.
    """
    found = read_value(folder / ARTIFACT_FILE, Artifact, "that of a stored network: run the recipe again")
    if found.form != "torch":
        raise InputError(f"{folder} holds a network as {found.form}, expected one in torch")
    return found.model_copy(update={"folder": folder})


def load_network(artifact: Artifact) -> nn.Module:
    """Return the network of a torch artifact in eval mode, float32, on the CPU."""
    return _load(artifact.folder, artifact.inputs)


def factored_layers(artifact: Artifact) -> tuple[str, ...]:
    """Return the layers of a torch artifact that are factorised now; of a network written anew, those it could keep."""
    return _factored(_read(artifact.folder))


def _factored(content: Mapping[str, Any]) -> tuple[str, ...]:
    return factored_names(content["edits"], content.get(_FACTORED, ()))


def edit_history(artifact: Artifact) -> list[Mapping[str, Any]]:
    """Return all structural edits between the network that a recipe starts from and this one, in order."""
    content = _read(artifact.folder)
    return [*content.get("history", ()), *content["edits"]]


def _load(folder: Path, inputs: Sequence[TensorSpec]) -> nn.Module:
    content = _read(folder)
    with recorded_dependencies(folder / _DEFINITION_FILE) as read:
        model = _built(folder, content, inputs)
    _check_reads(content.get("reads", {}), read, folder)
    for number, edit in enumerate(content["edits"]):
        try:
            apply_edit(model, edit)
        except UNFIT as error:
            raise InputError(
                f"{folder}/{NETWORK_FILE} is damaged: edit {number} does not fit the network: {error!r}; {AGAIN}"
            ) from error
    load_weights(model, read_weights(folder / "weights.safetensors"), f"{folder}/weights.safetensors")
    model.eval()
    return model


def _built(folder: Path, content: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> nn.Module:
    origin = Path(content["origin"]) if "origin" in content else None
    model = build_network(folder / _DEFINITION_FILE, {**content["arguments"], **content["without_pretrained"]}, origin)
    initialise_lazy_layers(model, inputs)
    return model


def _check_reads(stored: Mapping[str, str], read: set[Path], folder: Path) -> None:
    """Raise InputError where a definition reads or imports anything else than when its network was stored."""
    found = digests_of(read)
    if sorted(found.values()) == sorted(stored.values()):
        return
    changed = [path for path, digest in stored.items() if digest not in found.values()]
    changed = changed or [path for path, digest in found.items() if digest not in stored.values()]
    raise InputError(
        f"{folder / _DEFINITION_FILE} reads or imports {first_names(changed)}, which has changed since the network was "
        "stored: run the recipe again, which makes it again"
    )


def _read(folder: Path) -> dict[str, Any]:
    file = folder / NETWORK_FILE
    content = read_object(file, AGAIN)
    if content.get("format") != _NETWORK_FORMAT:
        raise InputError(f"{file} has format {content.get('format')}, this version reads {_NETWORK_FORMAT}")
    kinds = {"arguments": dict, "without_pretrained": dict, "edits": list, "reads": dict, _FACTORED: list}
    for key, kind in kinds.items():
        if not isinstance({"reads": {}, _FACTORED: [], **content}.get(key), kind):
            raise InputError(f"{file} is damaged: {key} is not of type {kind.__name__}; {AGAIN}")
    if not all(isinstance(name, str) for name in content.get(_FACTORED, [])):
        raise InputError(f"{file} is damaged: {_FACTORED} is no list of names; {AGAIN}")
    return content


def loads_alike(artifact: Artifact) -> bool:
    """Say whether a torch artifact gives the same outputs and state whatever random numbers it is built with."""
    example = example_for([(spec.shape, spec.dtype) for spec in artifact.inputs])
    first, *others = (_loaded_again(artifact.folder, artifact.inputs, example, seed) for seed in range(1 + TRIES))
    if not all(same_state(first, other) for other in others):
        return False
    with own_randomness(_FIRST_SEED):
        return not example or outputs_alike(run_with(first, example), run_with(others[0], example), rounding=ROUNDING)


def load_other(definition: Path, weights: Path, arguments: Mapping[str, Any]) -> tuple[nn.Module, set[Path]]:
    """Return a network from its definition and weight file, such as a teacher, in eval mode; and what build read."""
    with recorded_dependencies(definition) as read:
        model = build_network(definition, arguments)
    load_weights(model, read_weights(weights), str(weights))
    model.eval()
    return model, read


def _save(
    folder: Path, model: nn.Module, content: Mapping[str, Any], inputs: Sequence[TensorSpec], *, half: bool = False
) -> None:
    """Write the plan and the tensors, read them back, and add what the network has that did not come back."""
    (folder / "network.json").write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    file = folder / "weights.safetensors"
    _save_tensors(model.state_dict(), file, half=half)
    example = example_for([(spec.shape, spec.dtype) for spec in inputs])
    rounded = _in_single(read_weights(file)) if half else None
    with left_unchanged(model), own_randomness(_FIRST_SEED):
        expected = run_with(model, example, rounded) if example else []
        again, lost = _lost(folder, inputs, model, example)
        if lost:
            _save_tensors({**model.state_dict(), **encoded_state(lost)}, file, half=half)
            again = _loaded_again(folder, inputs, (), _FIRST_SEED + 1)
        found = run_with(again, example) if example else []
        rounding = ROUNDING if same_state(model, again, rounded) else 0.0
        if not outputs_alike(expected, found, rounding=rounding):
            raise InputError(_unlike(model, again, example))


def _lost(
    folder: Path, inputs: Sequence[TensorSpec], model: nn.Module, example: Example
) -> tuple[nn.Module, dict[Place, Value]]:
    """Return a network that was read back, and the state outside the state_dict that was not restored with it.

    Few numbers (an order of three things) may be drawn the same again: they are asked for several times.
    """
    state = outside_state(model)
    lost: dict[Place, Value] = {}
    for seed in range(_FIRST_SEED + 1, _FIRST_SEED + 1 + (TRIES if state else 1)):
        again = _loaded_again(folder, inputs, example, seed)
        lost |= differing_state(state, outside_state(again))
    return again, lost


def _in_single(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _loaded_again(folder: Path, inputs: Sequence[TensorSpec], example: Example, seed: int) -> nn.Module:
    """Return what an artifact loads to, with random numbers of this seed, after it has run once on an example."""
    with own_randomness(seed):
        again = _load(folder, inputs)
        if example:
            run_with(again, example)
    return again


def _unlike(model: nn.Module, again: nn.Module, example: Example) -> str:
    """Say why a network computes something else once it was stored and read back."""
    if changed := kept_state(model, example):
        return f"the network keeps state in evaluation: its forward changes {changed}. {ADVICE}."
    layer = random_layer(model, example)
    if layer is not None:
        where = f"layer {layer} ({type(model.get_submodule(layer)).__name__})" if layer else "its own forward"
        return (
            f"the network gives different outputs each time it runs in evaluation mode: {where} draws random numbers. "
            "Draw them only in training (`if self.training`, or nn.Dropout), or once in __init__, kept by "
            "register_buffer."
        )
    named = different_attributes(model, again)
    listed = "; ".join(named[:LISTED]) or "no attribute that could be compared"
    return (
        "the network computes something else after it is stored and rebuilt from its definition, because it has state "
        f"outside its state_dict that cannot be stored: {listed}. Keep it as a tensor by register_buffer in __init__, "
        "or compute it only from the arguments of build."
    )


def _save_tensors(tensors: Mapping[str, Tensor], file: Path, *, half: bool = False) -> None:
    """Write tensors as safetensors, contiguous, from the CPU; with `half`, those of two dimensions or more as float16.

    Biases and norms stay in float32: running variances may lie outside float16's range.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    inside, _ = split_state(plain)
    smaller = {name: tensor.half() for name, tensor in inside.items() if half and tensor.ndim > 1}
    save_file({**plain, **smaller}, file)


def write_network(
    folder: Path,
    model: nn.Module,
    *,
    parent: Artifact,
    edits: Sequence[Mapping[str, Any]] = (),
    half: bool = False,
    sparse: Sequence[str] | None = None,
    shared: Mapping[str, SharingRule] | None = None,
) -> None:
    """Write a torch artifact's payload: the parent's definition and plan with `edits` appended, and the tensors.

    A graph module (of a rewritten network) is written as a definition of its own; it gets legs of factorised layers as
    one nn.Sequential each again, in place, so that a later stage can merge them back. `sparse` are the parameters whose
    zeros later stages keep (see `pipeline.network.masks`), `shared` the rules of those whose clusters they keep
    (`pipeline.network.clusters`); None: those of the parent that the network still has.

    Raises:
        StageError: the graph cannot be written as a plain file, a sparse parameter has lost zeros, or a shared one has
            more values than clusters.
        InputError: read back it computes something else, from random numbers or from state that cannot be stored.
    """
    content = _read(parent.folder)
    before = stored_names(content, parent.folder)
    require_zeros(before, model, parent.folder, edits)
    content.pop(SPARSE, None)
    if names := still_sparse(before if sparse is None else sparse, model):
        content[SPARSE] = names
    rules = still_shared(stored_rules(content, parent.folder) if shared is None else shared, model)
    require_clusters(rules, model)
    content.pop(SHARED, None)
    if rules:
        content[SHARED] = rules_as_values(rules)
    content["edits"] = [*content["edits"], *(dict(edit) for edit in edits)]
    if isinstance(model, GraphModule):
        factored = rejoin_legs(model, _factored(content))
        content.pop(_FACTORED, None)
        history = [*content.get("history", ()), *content["edits"]]
        content |= {"arguments": {}, "without_pretrained": {}, "edits": [], "history": history}
        content = {name: value for name, value in content.items() if name not in {"reads", "origin"}}
        content |= {_FACTORED: factored} if factored else {}
        (folder / _DEFINITION_FILE).write_text(definition_source(model, "A pruned network, rewritten."))
    else:
        (folder / _DEFINITION_FILE).write_bytes((parent.folder / _DEFINITION_FILE).read_bytes())
    _save(folder, model, content, parent.inputs, half=half)


def write_original(
    folder: Path,
    model: nn.Module,
    definition: Path,
    arguments: Mapping[str, Any],
    inputs: Sequence[TensorSpec] = (),
    *,
    reads: bool = False,
) -> None:
    """Write the payload of the network that a recipe starts from.

    An argument `pretrained` is switched off for later loading: the weights that it brought lie in the artifact.
    With `inputs` the artifact is also run, as `write_network` does. With `reads` the definition reads other files:
    these are written down, and each time that the network is loaded they have to be the same.

    Raises InputError when it computes something else once it was read back.
    """
    without = {"pretrained": False} if "pretrained" in arguments else {}
    (folder / _DEFINITION_FILE).write_bytes(definition.read_bytes())
    content = {
        "format": _NETWORK_FORMAT,
        "arguments": dict(arguments),
        "without_pretrained": without,
        "edits": [],
    }
    if reads:
        content |= {"origin": str(definition.resolve())}
        with own_randomness(_FIRST_SEED), recorded_dependencies(folder / _DEFINITION_FILE) as read:
            _built(folder, content, inputs)  # without what `pretrained` reads
        content = {**content, "reads": digests_of(read)} if read else content
    _save(folder, model, content, inputs)

"""Masks that last: which parameters of a stored network are sparse, and that no stage fills their zeros again.

network.json names the sparse parameters; the mask of one is where its stored weight is not zero. Nothing else is
stored, so a mask is never at odds with the weights. Weights that a method has zeroed stay zero while a network is
trained further, has channels removed, is exported and quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.core.code_inputs import NETWORK_FILE
from pipeline.core.errors import InputError, StageError
from pipeline.core.reading import read_object
from pipeline.network.weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.core.artifact import Artifact

#: The key of network.json; absent where no parameter is sparse.
SPARSE = "sparse"
WEIGHTS_FILE = "weights.safetensors"


def sparse_names(artifact: Artifact) -> tuple[str, ...]:
    """Return the names of the sparse parameters of a torch artifact, sorted. Raises InputError when it is damaged."""
    return stored_names(read_object(artifact.folder / NETWORK_FILE, "run the recipe again"), artifact.folder)


def stored_names(content: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the sparse parameters that the content of a network.json names. Raises InputError when it is damaged."""
    found = content.get(SPARSE, [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{folder / NETWORK_FILE} is damaged: {SPARSE} is no list of names; run the recipe again")
    return tuple(sorted(found))


def masks_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the masks of these parameters by name: bool, in the weight's shape, true where it is not zero.

    Raises InputError when the network has no such parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wanted = tuple(names)
    if missing := [name for name in wanted if name not in parameters]:
        raise InputError(f"the network has no parameter {missing[0]}, which its artifact names as sparse")
    return {name: parameters[name].detach() != 0 for name in wanted}


def still_sparse(names: Iterable[str], model: nn.Module) -> list[str]:
    """Return those of the names that the network has, sorted: a removed block takes its masks with it."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return sorted(parameters.intersection(names))


def require_zeros(
    names: Iterable[str], model: nn.Module, parent: Path, edits: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Compare a network with the stored one that it was made of, at sparse parameters, sliced as `edits` keep them.

    Parameters of another shape all the same are left out: they are no longer the same weights.

    Raises StageError where a weight that was zero is not any more.
    """
    wanted = still_sparse(names, model)
    before = read_weights(parent / WEIGHTS_FILE) if wanted else {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in wanted:
        now = parameters[name].detach().cpu()
        stored = _sliced(before[name], name, edits) if name in before else now
        if stored.shape != now.shape:
            continue
        filled = int(((stored == 0) & (now != 0)).sum())
        if filled:
            zeros = int((stored == 0).sum())
            raise StageError(
                f"{name} has lost {filled} of its {zeros} zeros: weights that sparsify set to zero have to stay zero"
            )


def _sliced(stored: Tensor, name: str, edits: Sequence[Mapping[str, Any]]) -> Tensor:
    """Return what structural edits leave of a tensor."""
    for edit in edits:
        for dim, indices in edit.get("keep", {}).get(name, {}).items():
            stored = stored.index_select(int(dim), torch.tensor(indices))
    return stored

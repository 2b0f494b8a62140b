"""What has to last in every later file, counted there: zeros once a stage made masks, values once one made clusters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import StageError
from pipeline.core.problems import first_names
from pipeline.core.sharing import SHARING, Sharing
from pipeline.core.sparsity import SPARSITY, Sparsity, lost_zeros, zeros_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.artifact import Artifact
    from pipeline.core.sparsity import Zeros
    from pipeline.run.evaluator import Evaluator


def lasting_changes(label: str, artifacts: Sequence[Artifact], evaluator: Evaluator) -> dict[str, Any]:
    """Return what a row records of zeros and values in the file of the last artifact; nothing where none has to last.

    Raises StageError with the stage's `label` where a layer has lost any.
    """
    networks = [artifact for artifact in artifacts if artifact.form == "torch"]
    if len(artifacts) == 1:
        return {}
    return {
        **_zeros(label, artifacts, networks[-1], evaluator),
        **_values(label, artifacts[-1], networks[-1], evaluator),
    }


def _zeros(label: str, artifacts: Sequence[Artifact], network: Artifact, evaluator: Evaluator) -> dict[str, Any]:
    from pipeline.network.masks import sparse_names

    if not sparse_names(network):
        return {}
    found, before = (_zeros_of(artifact, evaluator) for artifact in (artifacts[-1], artifacts[-2]))
    if found is None:
        return {}
    if before is not None and (lost := lost_zeros(before, found)):
        name, count = next(iter(lost.items()))
        raise StageError(
            f"{label} has lost zeros in {first_names(list(lost))}: {count} of {int(before[name].sum())} in "
            f"{name}. Weights that were set to zero have to stay zero in every file that follows"
        )
    return {SPARSITY: Sparsity.of(found).model_dump(mode="json")}


def _zeros_of(artifact: Artifact, evaluator: Evaluator) -> Zeros | None:
    weights = evaluator.weights(artifact)
    return None if weights is None else zeros_among(weights)


def _values(label: str, artifact: Artifact, network: Artifact, evaluator: Evaluator) -> dict[str, Any]:
    clusters = _clusters(network)
    weights = evaluator.weights(artifact) if clusters else None
    if weights is None:
        return {}
    found = Sharing.of(weights)
    if (size := found.parted(clusters)) is not None:
        raise StageError(
            f"{label} has parted the clusters of a layer of {size} weights, which has more values now: quantize with "
            "one scale for each output channel and without recovery, or name the layer in keep of share"
        )
    return {SHARING: found.model_dump(mode="json")}


def _clusters(network: Artifact) -> list[tuple[int, int]]:
    """Return weights and values at most of each shared layer, as quantized files have them; any where they may differ.

    Codebooks that are on no grid, or that each channel has of its own, have more integers together.
    """
    from pipeline.network.clusters import sharing_rules
    from pipeline.network.masks import WEIGHTS_FILE
    from pipeline.network.weights import read_weights

    rules = sharing_rules(network)
    stored = read_weights(network.folder / WEIGHTS_FILE) if rules else {}
    return [
        (stored[name].numel(), rule.clusters if rule.grid != "float" and rule.scope == "layer" else sys.maxsize)
        for name, rule in rules.items()
    ]

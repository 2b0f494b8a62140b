"""Clusters that last: which parameters of a stored network share values, and that no stage tells them apart again.

network.json has the rule of each shared parameter; its codebook is found in the stored weights themselves, so it is
never at odds with them. Stages that train move centroids, those of quantization round them; the number of values of a
parameter never grows.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from pipeline.compress.sharing.codebooks import Codebook, SharingRule, find_codebook
from pipeline.compress.sharing.names import CentroidGradient, CodebookGrid, CodebookScope
from pipeline.compress.sharing.tied import TiedWeights
from pipeline.core.code_inputs import NETWORK_FILE
from pipeline.core.errors import InputError, StageError
from pipeline.core.reading import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from pipeline.core.artifact import Artifact

#: The key of network.json; absent where no parameter is shared.
SHARED = "shared"
_WORDS = {"scope": CodebookScope, "grid": CodebookGrid, "gradient": CentroidGradient}


def sharing_rules(artifact: Artifact) -> dict[str, SharingRule]:
    """Return the rules of the shared parameters of a torch artifact by name. Raises InputError when it is damaged."""
    return stored_rules(read_object(artifact.folder / NETWORK_FILE, "run the recipe again"), artifact.folder)


def stored_rules(content: Mapping[str, Any], folder: Path) -> dict[str, SharingRule]:
    """Return the rules in the content of a network.json. Raises InputError when it is damaged."""
    found = content.get(SHARED, {})
    if not isinstance(found, dict) or not all(_is_rule(rule) for rule in found.values()):
        raise InputError(f"{folder / NETWORK_FILE} is damaged: {SHARED} has no rules of clusters; run the recipe again")
    return {name: SharingRule(**rule) for name, rule in sorted(found.items())}


def rules_as_values(rules: Mapping[str, SharingRule]) -> dict[str, dict[str, Any]]:
    """Return rules as network.json has them."""
    return {name: asdict(rule) for name, rule in sorted(rules.items())}


def still_shared(rules: Mapping[str, SharingRule], model: nn.Module) -> dict[str, SharingRule]:
    """Return the rules of parameters that the network has: a removed block takes its clusters with it."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: rule for name, rule in rules.items() if name in parameters}


def codebooks_of(model: nn.Module, rules: Mapping[str, SharingRule]) -> dict[str, Codebook]:
    """Return the codebooks of shared parameters by name.

    Raises InputError when the network has no such parameter, or one with more values than its rule allows.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, rule in rules.items():
        if name not in parameters:
            raise InputError(f"the network has no parameter {name}, which its artifact names as shared")
        try:
            found[name] = find_codebook(parameters[name], rule)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return found


def tied_weights(model: nn.Module, artifact: Artifact) -> TiedWeights:
    """Return what keeps the clusters of an artifact's network while it is trained."""
    rules = sharing_rules(artifact)
    return TiedWeights({name: (book, rules[name].gradient) for name, book in codebooks_of(model, rules).items()})


def require_clusters(rules: Mapping[str, SharingRule], model: nn.Module) -> None:
    """Raise StageError where a shared parameter of a network has more values than its rule allows."""
    try:
        codebooks_of(model, still_shared(rules, model))
    except InputError as error:
        raise StageError(f"clusters are lost in {error}: weights that share a value have to stay equal") from error


def _is_rule(rule: object) -> bool:
    if not isinstance(rule, dict) or rule.keys() != {"clusters", "outputs", *_WORDS}:
        return False
    numbers = all(isinstance(rule[key], int) and rule[key] >= 0 for key in ("clusters", "outputs"))
    return numbers and all(rule[key] in get_args(words) for key, words in _WORDS.items())

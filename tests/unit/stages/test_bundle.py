"""The stage bundle carries what was chosen and changes nothing; where it may stand is a matter of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from pydantic import ValidationError

from pipeline.recipe import chain_problems
from pipeline.results.bundle import BundleOptions
from pipeline.stages.bundle import Bundle
from pipeline.stages.export import Export
from pipeline.stages.measure import Measure

if TYPE_CHECKING:
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context


def test_options_are_its_fields() -> None:
    """Everything but kind and on_no_gain is an option, with the same default."""
    assert set(Bundle.model_fields) == {*BundleOptions.model_fields, "kind", "on_no_gain"}
    assert BundleOptions.model_validate(Bundle().bundle_options()) == BundleOptions()
    stage = Bundle(samples=9, data_licence="CC0-1.0", runtimes=("openvino",))
    assert BundleOptions.model_validate(stage.bundle_options()) == BundleOptions(
        samples=9, data_licence="CC0-1.0", runtimes=("openvino",)
    )


def test_it_only_looks(onnx_artifact: Artifact) -> None:
    """The artifact goes on: nothing is made before the run's end, and no context is needed for that."""
    outcome = Bundle().run(onnx_artifact, cast("Context", None))
    assert (outcome.form, dict(outcome.changed)) == (None, {})


@pytest.mark.parametrize("samples", [0, 65])
def test_samples_are_few(samples: int) -> None:
    """At least one, at most 64."""
    with pytest.raises(ValidationError):
        Bundle(samples=samples)


def test_a_key_is_no_option() -> None:
    """A path to a secret key has no place in a recipe."""
    with pytest.raises(ValidationError, match="sign"):
        Bundle.model_validate({"kind": "bundle", "sign": "secret.key"})


def test_it_is_the_last_stage() -> None:
    """Anything behind it is a problem of the recipe, at the bundle's own place."""
    stages = [Export(kind="export", to="onnx"), Bundle(), Measure()]
    ((index, key, message),) = chain_problems(stages)
    assert (index, key) == (1, "kind")
    assert "measure" in message
    assert not list(chain_problems([stages[0], Measure(), Bundle()]))

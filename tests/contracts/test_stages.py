"""What every stage promises: its forms, its revision, described knobs, and a docstring that names source and limits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.core.stage import Stage  # noqa: TC001 (the adapter's annotation is evaluated)
from pipeline.stages import AnyStage

if TYPE_CHECKING:
    from pipeline.core.artifact import Form

ADAPTER: TypeAdapter[Stage] = TypeAdapter(AnyStage)


@dataclass(frozen=True)
class Contract:
    """A smallest configuration, the forms that the stage starts from and what it makes of the first, its revision."""

    config: dict[str, object]
    consumes: set[Form]
    produces: Form
    revision: int


CONTRACTS = {
    "prune": Contract({"ratio": 0.5}, {"torch"}, "torch", 3),
    "finetune": Contract({"epochs": 1}, {"torch"}, "torch", 3),
    "export": Contract({"to": "onnx"}, {"torch"}, "onnx", 2),
    "export again": Contract({"kind": "export", "to": "openvino"}, {"onnx"}, "openvino", 2),
    "simplify": Contract({}, {"onnx"}, "onnx", 1),
    "quantize": Contract({}, {"onnx"}, "onnx", 8),
    "quantize-aware-finetune": Contract({"epochs": 1}, {"torch"}, "onnx", 6),
    "measure": Contract({}, {"torch", "onnx", "openvino"}, "torch", 2),
    "bundle": Contract({}, {"onnx", "openvino"}, "onnx", 1),
}


def classes() -> tuple[type[Stage], ...]:
    """Return every class of the union."""
    return get_args(get_args(AnyStage)[0])


def test_every_stage_has_a_contract() -> None:
    """A new stage needs a row above."""
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in classes()}
    assert kinds == {contract.config.get("kind", name) for name, contract in CONTRACTS.items()}


@pytest.mark.parametrize("name", CONTRACTS)
def test_forms_and_revision(name: str) -> None:
    """The smallest configuration is valid and the forms and revision are as written down here."""
    contract = CONTRACTS[name]
    stage = ADAPTER.validate_python({"kind": name, **contract.config})
    assert stage.consumes == contract.consumes
    assert stage.produces(min(contract.consumes, key=["torch", "onnx", "openvino"].index)) == contract.produces
    assert stage.revision == contract.revision
    assert stage.libraries or stage.kind in {"prune", "bundle"}


@pytest.mark.parametrize("each", classes(), ids=lambda each: each.__name__)
def test_every_knob_is_described(each: type[Stage]) -> None:
    """The description of a field is its only documentation, so each has one; the module says source and limits."""
    missing = [name for name, field in each.model_fields.items() if name != "kind" and not field.description]
    assert not missing
    text = sys.modules[each.__module__].__doc__ or ""
    assert "Source" in text
    assert "not help" in text


@pytest.mark.parametrize("each", classes(), ids=lambda each: each.__name__)
def test_stages_are_frozen_and_strict(each: type[Stage]) -> None:
    """An unknown knob is refused."""
    kind = get_args(each.model_fields["kind"].annotation)[0]
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ADAPTER.validate_python({"kind": kind, **CONTRACTS[kind].config, "unknown": 1})

"""What prunes to a latency."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pipeline.pricing.making import FileMaker
from tests.unit.stages.prune_bench import EXPORTS, Bench

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.pricing.making import NetworkState


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return what runs the stage, with exports kept from test to test."""
    exported = FileMaker._exported

    def kept(maker: FileMaker, state: NetworkState) -> ModelProto:
        model = maker._network[2]
        weights = b"".join(name.encode() + value.numpy().tobytes() for name, value in model.state_dict().items())
        text = f"{sorted(state.widths.items())} {sorted(state.dropped)} {maker._form._inputs} {type(model)}"
        key = hashlib.sha256(weights + text.encode()).hexdigest()
        if key not in EXPORTS:
            EXPORTS[key] = exported(maker, state)
        return EXPORTS[key]

    monkeypatch.setattr(FileMaker, "_exported", kept)
    return Bench(tmp_path, monkeypatch)

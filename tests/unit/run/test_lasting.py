"""A run counts zeros and values of each file, and ends at a stage that loses any; it says what its result packs to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline import api
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import SilentProgress
from pipeline.core.store import Store
from pipeline.run.plan import digest_of
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune

if TYPE_CHECKING:
    from pipeline.results.run import RunReport
    from tests.project import Project

AWARE = "{kind: quantize-aware-finetune, epochs: 1, batch: 16, images: 16, learning_rate: 0.01, keep_zeros: false}"


def run(project: Project, stages: str) -> RunReport:
    """Run stages on a few images."""
    given = [f"stages=[{stages}]", "data.arguments={train: 16}"]
    folder, store = project.folder / "run", project.folder / "store"
    return api.run(project.recipe, folder, overrides=given, store=store, progress=SilentProgress()).report


def test_every_row_behind_masks_has_its_zeros(project: Project) -> None:
    """Counted in the file; rows before have none, and the effect says what compressing saves."""
    export, int8 = "{kind: export, to: onnx}", "{kind: quantize, images: 16, scheme: u8s8}"
    report = run(project, f"{{kind: export, to: onnx}}, {int8}")
    assert all(row.sparsity is None for row in report.rows)
    assert report.storage is None
    report = run(
        project, f"{{kind: sparsify, density: 25%, keep: [fc]}}, {export}, {int8}, {{kind: export, to: openvino}}"
    )
    first, sparse, exported, quantized, converted = report.rows
    assert first.sparsity is None
    assert sparse.sparsity
    assert sparse.sparsity.weights == 144 + 4 * 4608 + 32
    assert sparse.sparsity.layers["blocks.0.conv1"].zeros == 4608 * 3 / 4
    assert sparse.sparsity.layers["fc"].zeros == 0
    assert exported.sparsity == sparse.sparsity
    assert quantized.sparsity
    assert quantized.sparsity.zeros >= sparse.sparsity.zeros
    assert converted.sparsity
    assert converted.sparsity.zeros == quantized.sparsity.zeros
    assert [effect.what for effect in sparse.effects] == ["gzip", "zeros"]
    assert sparse.effects[0].change < -0.5
    share = f"{sparse.sparsity.share:.1%} zeros"
    for file in ("report.md", "report.html"):
        text = (project.folder / "run" / file).read_text()
        assert share in text
        assert "3,456 of 4,608" in text


def test_a_run_with_clusters_counts_values_and_says_what_the_result_packs_to(project: Project) -> None:
    """16 integers in each layer of the int8 file; the packed bytes are those of `secateur pack`."""
    report = run(project, "{kind: share}, {kind: export, to: onnx}, {kind: quantize, images: 16, scheme: u8s8}")
    first, shared, _, quantized = report.rows
    assert first.sharing is None
    assert shared.sharing
    assert [(effect.what, effect.judged) for effect in shared.effects] == [("gzip", "better")]
    assert quantized.sharing
    layers = quantized.sharing.layers.values()
    assert all(each.quantized and each.sizes <= 16 for each in layers)
    file = project.folder / "run" / quantized.folder / "model.onnx"
    sizes = api.pack(file, project.folder / "model.packed", progress=SilentProgress())
    assert report.storage
    assert (report.storage.packed, report.storage.raw) == (sizes.packed, file.stat().st_size)
    assert report.storage.original == first.size_bytes
    for name in ("report.md", "report.html"):
        text = (project.folder / "run" / name).read_text()
        assert "packed, " in text
        assert "among 4,608 weights" in text


def test_a_result_that_cannot_be_packed_is_told_and_the_run_ends_well(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes are absent then, never zero."""

    def refuse(*_: object, **__: object) -> None:
        raise InputError("model.onnx cannot be packed: why not")

    monkeypatch.setattr("pipeline.bundle.packing.packed_network", refuse)
    report = run(project, "{kind: share}")
    assert report.status == "finished"
    assert report.storage is None


def test_a_stage_that_parts_clusters_ends_the_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is of the file: here nothing else has refused one scale for a whole weight. Nothing of it is stored."""
    monkeypatch.setattr(Quantize, "parts_clusters", ("", ""))
    quantize, ran = Quantize.run, list[str]()
    monkeypatch.setattr(Quantize, "run", lambda self, *given: (ran.append(self.kind), quantize(self, *given))[1])
    stages = "{kind: share}, {kind: export, to: onnx}, {kind: quantize, images: 16, scheme: u8s8, per_channel: false}"
    for runs in (1, 2):
        with pytest.raises(StageError, match=r"quantize has parted the clusters of a layer of \d+ weights"):
            run(project, stages)
        assert len(ran) == runs
    plan = json.loads((project.folder / "run" / "plan.json").read_text())
    store = Store(project.folder / "store")
    assert [store.has(digest_of(each)) for each in plan] == [True, True, True, False]


def test_a_stage_that_loses_zeros_ends_the_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is of the file: here nothing else has refused a training that fills zeros."""
    monkeypatch.setattr(QuantizeAwareFinetune, "fills_zeros", ("", ""))
    told = r"quantize-aware-finetune has lost zeros in blocks.0.conv1, .* \d+ of 3456 in blocks\.0\.conv1\."
    with pytest.raises(StageError, match=told):
        run(project, f"{{kind: sparsify, density: 25%}}, {AWARE}")

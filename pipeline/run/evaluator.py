"""Judges the file that ships: every artifact becomes an exported file, and that file is run on images.

A torch artifact is exported to FP32 ONNX for this. The verdicts are stored like stages, by the digests of what they
depend on, so that nothing is evaluated twice and the test images are touched once for a given pair of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.artifact import Artifact, FrozenModel, TensorSpec, payload_digest, size_bytes
from pipeline.core.classification import NO_CLASS, predicted_classes
from pipeline.core.errors import StageError
from pipeline.core.runtimes import FORMS, RUNTIMES, exported_forms, load_reference, runtime_for
from pipeline.core.store import write_artifact
from pipeline.results.accuracy import paired_difference, score_predictions
from pipeline.results.run import Accuracy, FinalTest
from pipeline.run.plan import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.analysis.cost import FileCost
    from pipeline.core.dataset import Dataset, Split
    from pipeline.core.stage import Progress, Runtime, Target
    from pipeline.core.store import Store

_EVALUATION_FILE = "judgement.json"
#: What an FP32 export for judging depends on.
_EXPORTERS = ("torch", "onnx", "onnxscript")
#: Bump this when the same file would now be evaluated differently.
REVISION = 1


class FileEvaluation(FrozenModel):
    """What was found about one exported file."""

    validation: Accuracy
    macs: int
    parameters: int
    size_bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class Evaluator:
    """Judges artifacts on one data set for one target. `data_identity` tells the data and their split apart."""

    store: Store
    dataset: Callable[[], Dataset]
    data_identity: Mapping[str, object]
    target: Target
    threads: int
    progress: Progress

    def exported_file(self, artifact: Artifact) -> Artifact:
        """Return the exported file of an artifact: itself, or the FP32 ONNX export of a torch network."""
        if artifact.form in exported_forms():
            return artifact
        key = digest_of(
            {
                "kind": "judge export",
                "revision": REVISION,
                "of": artifact.digest,
                "batch": self.target.batch,
                "inputs": [spec.model_dump(mode="json") for spec in artifact.inputs],
                "outputs": [spec.name for spec in artifact.outputs],
                "versions": {name: version(name) for name in _EXPORTERS},
            }
        )
        self._obtain(key, partial(self._export, artifact), "the same export")
        return self.store.read(key)

    def evaluate(self, artifact: Artifact) -> FileEvaluation:
        """Return accuracy on the validation split, cost and size of the exported file."""
        file = self.exported_file(artifact)
        key = digest_of({"kind": "judgement", "revision": REVISION, "of": file.digest, **self._conditions(file)})
        self._obtain(key, lambda folder: _write(self._evaluation(file), folder), "the same evaluation")
        return FileEvaluation.model_validate_json((self.store.folder(key) / _EVALUATION_FILE).read_text())

    def final_test(self, original: Artifact, result: Artifact) -> FinalTest:
        """Return the test accuracy of both exported files on the same images. Taken once for a pair of files."""
        before, after = self.exported_file(original), self.exported_file(result)
        conditions = [self._conditions(file) for file in (before, after)]
        pair = [before.digest, after.digest]
        key = digest_of({"kind": "test", "revision": REVISION, "of": pair, "conditions": conditions})
        self._obtain(key, lambda folder: _write(self._test(before, after), folder), "the same final test")
        return FinalTest.model_validate_json((self.store.folder(key) / _EVALUATION_FILE).read_text())

    def runtime_of(self, file: Artifact) -> Runtime:
        """Return the runtime that a file is evaluated in: the target's where it reads the form, else the form's own."""
        return runtime_for(file.form, self.target.runtime)

    def _conditions(self, file: Artifact) -> dict[str, object]:
        runtime = self.runtime_of(file)
        return {
            "data": dict(self.data_identity),
            "classes": list(self.dataset().classes),
            "runtime": runtime,
            "versions": {runtime: version(RUNTIMES[runtime].package)},
        }

    def _obtain(self, key: str, make: Callable[[Path], None], what: str) -> None:
        self.store.obtain(key, make, self.progress.note, what=what)

    def _export(self, artifact: Artifact, folder: Path) -> None:
        from pipeline.export.onnx import export_onnx
        from pipeline.network.stored import load_network

        inputs, outputs = export_onnx(
            load_network(artifact),
            folder,
            input_shape=(self.target.batch, *artifact.inputs[0].shape[1:]),
            input_name=artifact.inputs[0].name,
            output_names=tuple(output.name for output in artifact.outputs),
        )
        exported = Artifact(
            form="onnx",
            folder=folder,
            digest=payload_digest("onnx", folder),
            inputs=inputs,
            outputs=outputs,
            lineage=artifact.lineage,
        )
        write_artifact(exported, folder)

    def _evaluation(self, file: Artifact) -> FileEvaluation:
        from pipeline.analysis.cost import gzip_size_bytes

        data = self.dataset()
        predictions = self._predictions(file, data.validation, "validation")
        cost: FileCost = load_reference(FORMS[file.form].cost)(file.file)
        return FileEvaluation(
            validation=score_predictions(predictions, data.validation.labels, len(data.classes)),
            macs=cost.macs,
            parameters=cost.parameters,
            size_bytes=size_bytes(file),
            gzip_bytes=gzip_size_bytes(file.files),
        )

    def _test(self, before: Artifact, after: Artifact) -> FinalTest:
        data = self.dataset()
        labels, classes = data.test.labels, len(data.classes)
        first = self._predictions(before, data.test, "test, original")
        second = self._predictions(after, data.test, "test, result")
        return FinalTest(
            original=score_predictions(first, labels, classes),
            result=score_predictions(second, labels, classes),
            difference=paired_difference(first, second, labels),
        )

    def _predictions(self, file: Artifact, split: Split, name: str) -> NDArray[np.int64]:
        from pipeline.measure.batches import run_in_batches

        batch = self.target.batch
        images = (images for images, _ in self.dataset().batches(split, batch))
        ran = run_in_batches(file.file, images, runtime=self.runtime_of(file), threads=self.threads, batch=batch)
        found: list[NDArray[np.int64]] = []
        for done, (logits, *_) in enumerate(ran):
            found.append(predicted_classes(logits))
            _require_classes(found[-1], f"images {done * batch} to {done * batch + len(logits) - 1} of {name}")
            self.progress.update(done + 1, -(-len(split) // batch), f"accuracy on {name}")
        return np.concatenate(found)


def _require_classes(predictions: NDArray[np.int64], where: str) -> None:
    if undecided := int((predictions == NO_CLASS).sum()):
        raise StageError(
            f"the exported file's outputs are not finite for {undecided} of the {where}: there is no class to name. "
            "Check its weights and what the stage changed: a learning rate that is too high, numbers beyond float16"
        )


def _write(found: FrozenModel, folder: Path) -> None:
    (folder / _EVALUATION_FILE).write_text(found.model_dump_json(indent=1) + "\n")


def input_specs(dataset: Dataset, batch: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the input and output of a classifier on this data."""
    inputs = (TensorSpec(name="input", shape=(batch, *dataset.input_shape), layout="NCHW"),)
    return inputs, (TensorSpec(name="logits", shape=(batch, len(dataset.classes))),)

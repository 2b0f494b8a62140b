"""Judges the file that ships: every artifact becomes an exported file, and that file is run on the task's samples.

A torch artifact is exported to FP32 ONNX for this. The verdicts are stored like stages, by the digests of what they
depend on, so that nothing is evaluated twice and the test samples are touched once for a given pair of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import Artifact, FrozenModel, at_batch, payload_digest, size_bytes
from pipeline.core.runtimes import FORMS, RUNTIMES, exported_forms, load_reference, runtime_for
from pipeline.core.store import write_artifact
from pipeline.core.user_code import user_code_errors
from pipeline.results.details import class_scores, worst_changes
from pipeline.results.run import FinalTest, Score
from pipeline.results.scores import paired_difference, score_predictions
from pipeline.run.plan import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.analysis.cost import FileCost
    from pipeline.core.dataset import SplitName
    from pipeline.core.stage import Progress, Runtime, Target
    from pipeline.core.store import Store
    from pipeline.core.task import Task

_EVALUATION_FILE = "judgement.json"
#: What an FP32 export for judging depends on.
_EXPORTERS = ("torch", "onnx", "onnxscript")
#: Bump this when the same file would now be evaluated differently.
REVISION = 1


class FileEvaluation(FrozenModel):
    """What was found about one exported file."""

    validation: Score
    macs: int
    parameters: int
    size_bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class Evaluator:
    """Judges artifacts by one task for one target, each on images of its own size.

    `data_identity` tells task, data and their split apart.
    """

    store: Store
    task: Callable[[], Task]
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
                **({"dynamic": sizes.axes} if (sizes := self.task().sizes).axes else {}),
                "versions": {name: version(name) for name in _EXPORTERS},
            }
        )
        self._obtain(key, partial(self._export, artifact), "the same export")
        return self.store.read(key)

    def evaluate(self, artifact: Artifact) -> FileEvaluation:
        """Return the score on the validation split, cost and size of the exported file."""
        file = self.exported_file(artifact)
        key = digest_of({"kind": "judgement", "revision": REVISION, "of": file.digest, **self._conditions(file)})
        self._obtain(key, lambda folder: _write(self._evaluation(artifact, file), folder), "the same evaluation")
        return FileEvaluation.model_validate_json((self.store.folder(key) / _EVALUATION_FILE).read_text())

    def final_test(self, original: Artifact, result: Artifact) -> FinalTest:
        """Return the test scores of both exported files on the same samples. Taken once for a pair of files."""
        before, after = self.exported_file(original), self.exported_file(result)
        conditions = [self._conditions(file) for file in (before, after)]
        pair = [before.digest, after.digest]
        key = digest_of({"kind": "test", "revision": REVISION, "of": pair, "conditions": conditions})
        self._obtain(key, lambda folder: _write(self._test(before, after), folder), "the same final test")
        return FinalTest.model_validate_json((self.store.folder(key) / _EVALUATION_FILE).read_text())

    def weights(self, artifact: Artifact) -> dict[str, NDArray[Any]] | None:
        """Return the weights of an artifact's file by layer; None where nothing reads those of its form."""
        file = self.exported_file(artifact)
        read = FORMS[file.form].weights
        found: dict[str, NDArray[Any]] | None = load_reference(read)(file.file) if read else None
        return found

    def runtime_of(self, file: Artifact) -> Runtime:
        """Return the runtime that a file is evaluated in: the target's where it reads the form, else the form's own."""
        return runtime_for(file.form, self.target.runtime)

    def _conditions(self, file: Artifact) -> dict[str, object]:
        runtime = self.runtime_of(file)
        return {
            "data": dict(self.data_identity),
            "classes": list(self.task().data.classes),
            "runtime": runtime,
            "versions": {runtime: version(RUNTIMES[runtime].package)},
        }

    def _obtain(self, key: str, make: Callable[[Path], None], what: str) -> None:
        self.store.obtain(key, make, self.progress.note, what=what)

    def _export(self, artifact: Artifact, folder: Path) -> None:
        from pipeline.export.onnx import export_onnx
        from pipeline.network.stored import load_network

        model, names = load_network(artifact), [output.name for output in artifact.outputs]
        given, sizes = at_batch(artifact.inputs, self.target.batch), self.task().sizes
        inputs, outputs = export_onnx(model, folder, given, names, open_sizes=sizes)
        exported = Artifact(
            form="onnx",
            folder=folder,
            digest=payload_digest("onnx", folder),
            inputs=inputs,
            outputs=outputs,
            lineage=artifact.lineage,
        )
        write_artifact(exported, folder)

    def _evaluation(self, artifact: Artifact, file: Artifact) -> FileEvaluation:
        from pipeline.analysis.cost import gzip_size_bytes
        from pipeline.export.first_export import require_same_start
        from pipeline.network.soundness import batch_mixing
        from pipeline.network.stored import load_network

        if artifact.form == "torch" and not artifact.lineage:
            names, model = [output.name for output in artifact.outputs], load_network(artifact)
            task = self.task().for_inputs(artifact.inputs)
            require_same_start(model, file.file, task, names, partial(batch_mixing, model))
        predictions = self._predictions(file, "validation", "validation")
        validation = self._scored(predictions, "validation")
        shapes = self.task().first_shapes(1)
        cost: FileCost = load_reference(FORMS[file.form].cost)(file.file, *([shapes] if shapes else []))
        return FileEvaluation(
            validation=validation,
            macs=cost.macs,
            parameters=cost.parameters,
            size_bytes=size_bytes(file),
            gzip_bytes=gzip_size_bytes(file.files),
        )

    def _test(self, before: Artifact, after: Artifact) -> FinalTest:
        first = self._predictions(before, "test", "test, original")
        second = self._predictions(after, "test", "test, result")
        with user_code_errors("the difference of the test scores cannot be computed"):
            difference = paired_difference(self.task().metrics[0], first, second, self._targets("test"), self.progress)
        scores = self._scored(first, "test"), self._scored(second, "test")
        found = FinalTest(original=scores[0], result=scores[1], difference=difference)
        return found if self.task().images else found.model_copy(update=self._details(first, second))

    def _details(self, first: list[Any], second: list[Any]) -> dict[str, Any]:
        """Return what is behind the difference of the test scores."""
        task, targets = self.task(), self._targets("test")
        with user_code_errors("the scores of single samples cannot be computed"):
            name, classes = class_scores(task.metrics, first, second, targets, task.data.classes)
            worst = worst_changes(task.metrics[0], first, second, targets)
        return {"class_metric": name, "classes": classes, "worst": worst}

    def _scored(self, predictions: list[Any], split: SplitName) -> Score:
        with user_code_errors(f"the score on the {split} split cannot be computed"):
            return score_predictions(self.task().metrics, predictions, self._targets(split))

    def _targets(self, split: SplitName) -> Sequence[Any]:
        return self.task().targets(split, slice(None))

    def _predictions(self, file: Artifact, split: SplitName, name: str) -> list[Any]:
        from pipeline.analysis.predictions import predict_samples

        return predict_samples(
            file.file,
            self.task().for_inputs(file.inputs),
            split,
            runtime=self.runtime_of(file),
            threads=self.threads,
            batch=self.target.batch,
            output_names=[output.name for output in file.outputs],
            what=name,
            progress=self.progress,
        )


def _write(found: FrozenModel, folder: Path) -> None:
    (folder / _EVALUATION_FILE).write_text(found.model_dump_json(indent=1) + "\n")

"""The net under every quantization: a file whose outputs are far from the float file's never ships without a word.

Both files run on images that the ranges come from and on images that nothing was calibrated on; test images are never
looked at. What counts is the session that ships, in the target's runtime, optimised as by default. The file also
runs unoptimised, as it says itself: other runtimes read the same file.

A far file is mended where few layers are guilty: these go back to float. They are found by making the file anew, not by
its tensors, so that it makes no difference whether engine, calibration or the runtime's optimizer is to blame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import feed_slices, sample_count
from pipeline.core.nearness import (
    FAR,
    MOST_LAYERS,
    USELESS,
    Nearness,
    Seen,
    compare_classes,
    guilty_nodes,
    lowest_decibels,
    nearness_fault,
)
from pipeline.core.stage import Runtime, runs_in
from pipeline.measure.batches import run_in_batches
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.precision.request import training_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.dataset import SplitName
    from pipeline.core.feeds import Feeds
    from pipeline.core.nearness import Decision, OnFar, Outputs, Task
    from pipeline.core.stage import Context, Progress
    from pipeline.core.task import Task as AnyTask

#: Images of each kind: enough for answers to be certain.
IMAGES = 64


@dataclass(frozen=True)
class Images:
    """Samples as the network takes them, what they are to the ranges, and a classifier's labels [N]."""

    name: str
    feeds: Feeds
    labels: NDArray[np.int64] | None = None


def images_of(context: Context, calibrated: int) -> tuple[Images, ...]:
    """Return some of the training images that ranges come from, and some that they do not come from.

    `calibrated` is how many are calibrated on, in the order of `training_images`. Where these are all, the others are
    validation images; without any there is the one kind alone.
    """
    task, order = context.task(), training_order(context)
    kinds: dict[str, tuple[SplitName, NDArray[np.int64]]] = {
        "calibration": ("train", order[:calibrated]),
        "held-out": ("train", order[calibrated:]),
    }
    if calibrated >= len(order):
        kinds["held-out"] = "validation", np.random.default_rng(context.seed).permutation(task.count("validation"))
    return tuple(
        Images(name, task.feeds(split, chosen), task.images.split(split).labels[chosen] if task.images else None)
        for name, (split, places) in kinds.items()
        if len(chosen := places[:IMAGES])
    )


def net_of(given: Path, context: Context, calibrated: int) -> Net:
    """Return the net under the files that a stage makes of a float one."""
    images = images_of(context, calibrated)
    return Net(given, images, runs_in(context.target), context.target.batch, agree=agreement_of(context.task(), given))


def agreement_of(task: AnyTask, file: Path) -> Callable[[Outputs, Outputs], float] | None:
    """Return what says how far predictions from two files' outputs are the same; None where a task's kind cannot.

    Of an image classifier answers are compared, which says more.
    """
    compare = getattr(task.kit, "agreement", None)
    if compare is None or task.images is not None:
        return None
    names = [spec.name for spec in onnx_specs(read_onnx(file))[1]]

    def share(reference: Outputs, outputs: Outputs) -> float:
        before, after = (task.predictions(dict(zip(names, each, strict=True))) for each in (reference, outputs))
        return float(np.mean([compare(*pair) for pair in zip(after, before, strict=True)]))

    return share


@dataclass
class Net:
    """Compares files with one float file, whose outputs are kept. `task` says what answers are.

    `agree` says how far predictions are the same, of tasks that tell no images apart.

    Raises StageError when the float file's own outputs are not finite.
    """

    given: Path
    images: Sequence[Images]
    runtime: Runtime
    batch: int
    task: Task = compare_classes
    agree: Callable[[Outputs, Outputs], float] | None = None
    _references: dict[str, Outputs] = field(init=False, default_factory=dict)

    def see(self, file: Path) -> tuple[Seen, ...]:
        """Return what a file's outputs are to those of the float file, for each kind of images in each session.

        Raises InputError when the runtime cannot run the file.
        """
        return tuple(self._with_agreement(*each) for each in self._looked(file))

    def fault(self, file: Path) -> str:
        """Say why a file is far from the float file, on which images and where; empty when it is near."""
        return words([seen for seen, _, _ in self._looked(file)])

    def _looked(self, file: Path) -> Iterator[tuple[Seen, Images, Outputs]]:
        for images in self.images:
            outputs = self._shipped(file, images)
            yield self._seen(images, self.runtime, outputs), images, outputs
        for images in self.images:
            unoptimised = onnx_outputs(file, images.feeds)
            yield self._seen(images, "onnxruntime unoptimised", unoptimised), images, unoptimised

    def _with_agreement(self, seen: Seen, images: Images, outputs: Outputs) -> Seen:
        if self.agree is None or seen.fault.startswith(USELESS):
            return seen
        return seen.model_copy(update={"agreement": self.agree(self._reference(images), outputs)})

    def _seen(self, images: Images, session: str, outputs: Outputs) -> Seen:
        reference = self._reference(images)
        shapes, expected = ([output.shape for output in each] for each in (outputs, reference))
        if shapes != expected:
            raise StageError(f"outputs have shapes {shapes}, expected {expected}")
        answers = None if images.labels is None else self.task(reference, outputs, images.labels)
        return Seen(
            images=images.name,
            count=sample_count(images.feeds),
            session=session,
            decibels=lowest_decibels(reference, outputs),
            answers=answers,
            fault=nearness_fault(reference, outputs, answers),
        )

    def _reference(self, images: Images) -> Outputs:
        if images.name not in self._references:
            found = onnx_outputs(self.given, images.feeds)
            if not all(np.isfinite(output).all() for output in found):
                raise StageError(f"the float network's outputs are not finite on {images.name} images")
            self._references[images.name] = found
        return self._references[images.name]

    def _shipped(self, file: Path, images: Images) -> Outputs:
        """Return the outputs in a session like the one that ships, in calls of the target's batch."""
        batches = feed_slices(images.feeds, self.batch)
        parts = run_in_batches(file, batches, runtime=self.runtime, threads=1, batch=self.batch)
        return [np.concatenate(each)[: sample_count(images.feeds)] for each in zip(*parts, strict=True)]


class MakeFile(Protocol):
    """Writes the file with some more nodes left in float, by their names, and returns what was made."""

    def __call__(self, in_float: tuple[str, ...]) -> MadeFile:
        """Make it. Raises InputError or StageError where that cannot be done."""


@dataclass(frozen=True)
class MadeFile:
    """A file in fewer bits, the nodes that could still go back to float in the order of computation, and what is told.

    `empty` says that nothing of it is in fewer bits any more.
    """

    file: Path
    nodes: tuple[str, ...]
    told: dict[str, Any] = field(default_factory=dict)
    empty: bool = False


def ensure_near(
    net: Net, make: MakeFile, on_far: OnFar, *, stage: str, progress: Progress
) -> tuple[MadeFile, Nearness]:
    """Make a file that is near the float file, by leaving guilty layers in float where it is far and `on_far` says so.

    Raises:
        StageError: it is far with `on_far: fail`, no few layers are guilty, or with `on_far: keep` its outputs are
            constant or not finite.
        InputError: it cannot be made, or the runtime cannot run it.
    """
    made = make(())
    seen = net.see(made.file)
    why = words(seen)
    if not why:
        return made, _record("near", seen)
    progress.note(f"{stage}: {why}")
    if on_far == "keep" and not _useless(seen):
        return made, _record("kept", seen, text=why)
    if on_far != "float":
        raise _far_error(stage, seen, "Write on_far: float to put guilty layers back into float")
    guilty = guilty_nodes(made.nodes, lambda names: _is_near(net, make, names, progress))
    if guilty is None:
        raise _far_error(stage, seen, f"Putting up to {MOST_LAYERS} layers back into float does not fix it")
    mended = make(guilty)
    if mended.empty:
        raise _far_error(stage, seen, "With the guilty layers in float, nothing is left in fewer bits")
    progress.note(f"{stage}: put back into float, which fixes it: {', '.join(guilty)}")
    return mended, _record("float", net.see(mended.file), guilty, why)


def observe_nearness(net: Net, file: Path, *, stage: str) -> Nearness:
    """Return the record of a file that is near. Raises StageError where it is far, InputError where it cannot run."""
    seen = net.see(file)
    if words(seen):
        raise _far_error(stage, seen, "Nothing was tried to fix it")
    return _record("near", seen)


def nearness_before_and_after(start: Nearness, end: Nearness) -> Nearness:
    """Return the record of a file that was settled before its training, and again after it."""
    in_float = (*start.in_float, *end.in_float)
    if end.decision == "near" and start.in_float:
        return end.model_copy(update={"decision": "float", "in_float": in_float, "text": start.text})
    return end.model_copy(update={"in_float": in_float})


def words(seen: Sequence[Seen]) -> str:
    """Say where outputs are far, at the worst; empty where they are near everywhere."""
    far = [each for each in seen if each.fault]
    if not far:
        return ""
    worst = min(far, key=lambda each: each.decibels)
    only = " (in no other session)" if {each.session for each in seen} > {each.session for each in far} else ""
    return f"{FAR}: {worst.fault} on {worst.images} images in {worst.session}{only}"


def _far_error(stage: str, seen: Sequence[Seen], what_to_do: str) -> StageError:
    kept = "no recipe can ship such a file" if _useless(seen) else "on_far: keep ships the file, and the report says so"
    return StageError(
        f"{stage}: {words(seen)}. {what_to_do}. Or use another engine, scheme, calibration or precision, per_channel: "
        f"true, or keep with the nodes that need it; {kept}"
    )


def _useless(seen: Sequence[Seen]) -> bool:
    """Say whether outputs are constant or not finite, which no reader of a report could allow for."""
    return any(each.fault.startswith(USELESS) for each in seen)


def _is_near(net: Net, make: MakeFile, names: tuple[str, ...], progress: Progress) -> bool:
    """Make a file on trial. One in float is near; one that cannot be made or run is not."""
    progress.update(0, 1, f"looking for the layer that is far from float: {len(names)} in float")
    try:
        made = make(names)
        return made.empty or not net.fault(made.file)
    except (InputError, StageError):
        return False


def _record(decision: Decision, seen: tuple[Seen, ...], in_float: tuple[str, ...] = (), text: str = "") -> Nearness:
    lowest = min(each.decibels for each in seen)
    return Nearness(decision=decision, decibels=lowest, seen=seen, in_float=in_float, text=text)

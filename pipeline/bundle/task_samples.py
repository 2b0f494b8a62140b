"""Samples of any other task than classifying images, as .npz files, with what is expected of network and task.

Validation samples are taken, spread evenly, where the data's licence lets anyone pass them on. Otherwise they are made:
numbers in the range of the data, and images as for classifiers. They prove the computation, not the score.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bundle.json_text import json_text
from pipeline.bundle.licences import data_licence
from pipeline.bundle.on_device.infer import Rejected
from pipeline.bundle.on_device.task.answers import SAME, first_difference, prediction_arrays
from pipeline.bundle.on_device.task.infer import raw_image
from pipeline.bundle.on_device.task.network import TaskNetwork
from pipeline.bundle.preprocessing import COLOURS
from pipeline.bundle.samples import DRAWN_LICENCE, EXPECTED_FILE, FOLDER, drawn_like, may_be_passed_on, write_png
from pipeline.bundle.task_parts import raw_arrays, task_code, task_facts
from pipeline.bundle.tolerance import is_exact, tolerance
from pipeline.core.errors import InputError, StageError
from pipeline.core.store import read_artifact
from pipeline.data.task_file import FileTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.bundle.content import Content
    from pipeline.core.stage import Runtime

    Arrays = Mapping[str, NDArray[Any]]

SCHEMA_VERSION = 1
#: Training samples, at most, whose range made ones have.
_SAMPLES_MEASURED = 64
_IMAGE_AXES = (2, 3)


@dataclass(frozen=True)
class RawSamples:
    """Raw samples, whether they are those of the data, and their licence."""

    values: Sequence[Any]
    licence: str
    made: bool


def write_task_samples(content: Content, folder: Path) -> None:
    """Write samples/*.npz, images among them as .png too, and samples/expected.json.

    Raises:
        InputError: a sample cannot be kept or made, or the task's own code fails on it.
        StageError: an output is not finite.
    """
    raws, facts = samples_of(content), task_facts(content)
    try:
        inputs = _inputs(content, raws)
        networks = {runtime: TaskNetwork(folder, facts, runtime, threads=1) for runtime in content.files}
        for given in inputs:
            networks[content.runtime].check_inputs(given, f"{_file_of(content)}: preprocess(raw)")
        outputs = {runtime: _finite(network.outputs(inputs)) for runtime, network in networks.items()}
        predictions = [prediction_arrays(task_code(content).decode(each)) for each in outputs[content.runtime]]
    except Rejected as error:
        why = " It was given a made sample: {kind: bundle, sample_source: validation} takes real ones." * raws.made
        raise InputError(f"{_file_of(content)}: {error}.{why}") from error
    digits = len(str(len(raws.values) - 1))
    samples = []
    for place, raw in enumerate(raws.values):
        start = f"{FOLDER}/{place:0{digits}d}"
        found = {f"{runtime}.{name}": each for runtime in outputs for name, each in outputs[runtime][place].items()}
        parts: dict[str, Arrays] = {"inputs": inputs[place], "outputs": found, "prediction": predictions[place]}
        parts = {"": raw_arrays(raw, f"{_file_of(content)}: the raw sample"), **parts}
        for part, arrays in parts.items():
            write_arrays(folder / f"{start}{part and '.'}{part}.npz", arrays)
        if facts["image"]:
            write_png(raw_image(raw, facts).transpose(2, 0, 1), folder / f"{start}.png")
        samples.append(
            {
                "file": f"{start}.npz",
                "licence": raws.licence,
                "made": raws.made,
                **{part: f"{start}.{part}.npz" for part in parts if part},
            }
        )
    expected = {"schema_version": SCHEMA_VERSION, "samples": samples, **output_limits(content, outputs)}
    (folder / FOLDER / EXPECTED_FILE).write_text(json_text(expected), encoding="utf-8")


def write_arrays(file: Path, arrays: Arrays) -> None:
    """Write an .npz file, whatever the arrays are called: numpy's own function takes some names for its arguments."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, values in arrays.items():
            with packed.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(values, order="C"), allow_pickle=False)


def samples_of(content: Content) -> RawSamples:
    """Return the raw samples that ship, as the options and the data's licence say."""
    licence, source, data = data_licence(content), content.options.sample_source, content.task.data
    count = min(content.options.samples, content.task.count("validation"))
    if count < content.options.samples:
        content.progress.note(f"bundle: {count} samples, because there are no more in the validation split")
    if source == "validation" or (source == "auto" and may_be_passed_on(licence)):
        return RawSamples(data.raw_samples("validation", _places(content)), licence, made=False)
    known = data.raw_samples("train", range(min(_SAMPLES_MEASURED, content.task.count("train"))))
    return RawSamples([_made(known, place, content) for place in range(count)], DRAWN_LICENCE, made=True)


def _made(known: Sequence[Any], seed: int, content: Content) -> Any:  # noqa: ANN401 - as the user's are
    """Return a made sample of the shapes of a known one."""
    like = known[seed % len(known)]
    if not isinstance(like, dict):
        return _made_value(known, like, seed, content)
    return {name: _made_value([each[name] for each in known], like[name], seed, content) for name in like}


def _made_value(known: Sequence[Any], like: Any, seed: int, content: Content) -> Any:  # noqa: ANN401 - see above
    """Return a value of the shape and type of `like`: an image, whole numbers in the range of the known ones, noise."""
    where = _file_of(content)
    raw_arrays(like, f"{where}: the raw sample")
    shape, dtype, generator = np.shape(like), np.asarray(like).dtype, np.random.default_rng(seed)
    if dtype.kind not in "biuf":
        raise InputError(
            f"{where}: a sample holds text, of which no other can be made, and no licence says that it may be passed "
            "on; data_licence of the stage bundle states one, and sample_source: validation takes samples anyway"
        )
    if dtype == np.uint8 and len(shape) in _IMAGE_AXES:
        return _made_image([each for each in known if np.shape(each) == shape], seed)
    values = np.concatenate([np.ravel(each) for each in known])
    if dtype.kind == "f":
        values = values[np.isfinite(values)]
        made = generator.normal(values.mean(), values.std(), shape)
    else:
        made = generator.integers(int(values.min()), int(values.max()), shape, endpoint=True)
    found = np.asarray(made, dtype=dtype)
    return found if shape else found.item()


def _made_image(known: Sequence[NDArray[np.uint8]], seed: int) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W], [H, W, C] or [C, H, W], in brightness and contrast of these."""
    some = np.stack(known)
    if some.ndim < 4:  # noqa: PLR2004 - images without channels
        grey: NDArray[np.uint8] = drawn_like(some[:, None], seed + 1)[seed, 0]
        return grey
    last = some.shape[1] not in COLOURS
    made: NDArray[np.uint8] = drawn_like(some.transpose(0, 3, 1, 2) if last else some, seed + 1)[seed]
    return np.ascontiguousarray(made.transpose(1, 2, 0) if last else made)


def _inputs(content: Content, raws: RawSamples) -> list[dict[str, NDArray[Any]]]:
    """Return the network's inputs of each sample as a board makes them, which has to be as the score was taken."""
    for raw in raws.values:
        raw_arrays(raw, f"{_file_of(content)}: the raw sample")
    made = [task_code(content).inputs(raw) for raw in raws.values]
    if not raws.made:
        feeds = content.task.feeds("validation", _places(content))
        for place, found in enumerate(made):
            if why := first_difference({name: values[place] for name, values in feeds.items()}, found, SAME):
                raise StageError(f"{_file_of(content)}: a board would make other inputs of a sample: {why}")
    return made


def _places(content: Content) -> NDArray[np.int64]:
    """Return the places of the validation samples that ship, spread evenly."""
    total = content.task.count("validation")
    places: NDArray[np.int64] = np.linspace(0, total - 1, min(content.options.samples, total)).round().astype(np.int64)
    return places


def _finite(outputs: list[dict[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
    for name, values in ((name, values) for each in outputs for name, values in each.items()):
        if not np.isfinite(values).all():
            raise StageError(f"the exported file's output {name} is not finite; no bundle is made from it")
    return outputs


def output_limits(content: Content, outputs: Mapping[Runtime, Sequence[Mapping[str, NDArray[Any]]]]) -> dict[str, Any]:
    """Return by runtime and output how far outputs may be from those expected, and whether they must be the same."""
    found: dict[str, dict[str, Any]] = {"tolerance": {}, "exact": {}}
    for runtime, samples in outputs.items():
        lineage = read_artifact(content.files[runtime].parent).lineage
        allowed = {
            name: tolerance(lineage, runtime, np.concatenate([np.ravel(each[name]) for each in samples]).astype(float))
            for name in samples[0]
        }
        found["tolerance"][runtime] = {name: {"max_abs": most, "why": why} for name, (most, why) in allowed.items()}
        found["exact"][runtime] = is_exact(lineage, runtime)
    return found


def _file_of(content: Content) -> str:
    kit = content.task.kit
    return str(kit.path) if isinstance(kit, FileTask) else f"task {content.task.kind}"

"""What a bundle says of any other task than classifying images: preprocess.json, labels.txt, and the folder task/.

task/ holds the half of the task that needs no torch, and task.json, which says how that is called.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bundle import as_board
from pipeline.bundle.json_text import json_text
from pipeline.bundle.on_device.task.answers import KEPT
from pipeline.bundle.on_device.task.infer import LAYOUTS
from pipeline.bundle.on_device.task.inputs import IMAGE_AXES
from pipeline.bundle.on_device.task.task_code import FACTS, FOLDER, RAW, TaskCode
from pipeline.bundle.preprocessing import COLOURS, SCHEMA_VERSION, class_lines
from pipeline.core.dataset import Arrays
from pipeline.core.errors import InputError, StageError
from pipeline.core.store import read_artifact
from pipeline.data.task_file import FileTask
from pipeline.data.task_sources import code_of, task_sources
from pipeline.results.bundle import NAME

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.bundle.content import Content
    from pipeline.core.artifact import TensorSpec
    from pipeline.core.task import Task

_LIMIT_S = 600


def write_task(content: Content, folder: Path) -> None:
    """Write preprocess.json, labels.txt and task/.

    Raises:
        InputError: a name of a class or of a file cannot stand in a bundle, or a sample is nothing that can.
        StageError: the kind of task is not one that can ship.
    """
    facts = task_facts(content)
    kit = content.task.kit
    for name, source in task_sources(kit).items():
        if not re.fullmatch(NAME, f"{FOLDER}/{name}"):
            raise InputError(
                f"{source}: {name} cannot be a name in a bundle: letters, digits, `.`, `_`, `-`; rename it"
            )
        (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / FOLDER / name)
    for name, keys in {FACTS: _OF_ANSWERS, "preprocess.json": facts.keys() - _OF_ANSWERS}.items():
        said = {"schema_version": SCHEMA_VERSION, **{key: facts[key] for key in keys}}
        (folder / name).write_text(json_text(said), encoding="utf-8")
    # Without classes the outputs are what is told: every bundle has this file.
    labels = class_lines(tuple(content.task.data.classes) or tuple(facts["outputs"]))
    (folder / "labels.txt").write_text(labels, encoding="utf-8")


#: What task.json says; preprocess.json has the rest.
_OF_ANSWERS = {"kind", "code", "classes", "outputs", "metrics"}


def task_facts(content: Content) -> dict[str, Any]:
    """Return what preprocess.json and task/task.json say together."""
    task, artifact = content.task, read_artifact(content.files[content.runtime].parent)
    (raw,) = task.data.raw_samples("validation", [0])
    normalisation = task.data.normalisation if isinstance(task.data, Arrays) else None
    return {
        "kind": task.kind,
        "code": code_of(task.kit),
        "classes": list(task.data.classes),
        "outputs": [spec.name for spec in artifact.outputs],
        "metrics": [metric.name for metric in task.metrics],
        "inputs": [
            {
                "name": spec.name,
                "shape": list(spec.shape[1:]),
                "dtype": spec.dtype,
                "layout": spec.layout[1:],
                **({"dynamic": {str(axis - 1): size for axis, size in opened.items()}} if opened else {}),
                **_raw_image(task, raw, spec),
            }
            for spec in task.inputs(1)
            for opened in [task.sizes.of_input(spec.name)]
        ],
        "made_by": _made_by(content.task, raw),
        "mean": list(normalisation.mean) if normalisation else [],
        "std": list(normalisation.std) if normalisation else [],
        "raw_is_dict": isinstance(raw, dict),
        "image": image_in(raw),
        "batch": content.report.target.batch,
        "runtime": content.runtime,
    }


def _raw_image(task: Task, raw: Any, spec: TensorSpec) -> dict[str, Any]:  # noqa: ANN401 - whatever the data hold
    """Return type and shape of what an input is given as, where that is an image uint8 [C, H, W] and scaled here."""
    given = raw.get(spec.name) if isinstance(raw, dict) and not isinstance(task.kit, FileTask) else None
    if not isinstance(given, np.ndarray) or given.ndim != IMAGE_AXES:
        return {}
    is_scaled = given.dtype == np.uint8 != np.dtype(spec.dtype)
    return {"raw": {"dtype": given.dtype.name, "shape": list(given.shape)}} if is_scaled else {}


def _made_by(task: Task, raw: Any) -> str:  # noqa: ANN401 - whatever the data hold
    """Return what makes inputs of a raw sample: the kit's `preprocess`, mean and std of the data, or nothing."""
    if isinstance(task.kit, FileTask):
        return "preprocess"
    if isinstance(task.data, Arrays) and task.data.normalisation:
        return "normalise"
    made = task.kit.preprocess(raw) if hasattr(task.kit, "preprocess") else {}
    feeds = task.feeds("validation", [0])
    same = {*made} == {*feeds} and all(np.array_equal(made[name], values[0]) for name, values in feeds.items())
    return "preprocess" if same else "nothing"


def task_code(content: Content) -> TaskCode:
    """Return the task's half without torch, of the objects that are loaded here."""
    kit = content.task.kit
    return TaskCode(kit.given if isinstance(kit, FileTask) else kit, task_facts(content))


def raw_arrays(raw: Any, where: str) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - whatever the user gives
    """Return a raw sample as arrays that its file can hold. Raises InputError, which starts with `where`."""
    values = raw if isinstance(raw, dict) else {RAW: raw}
    for name, each in values.items():
        plain = isinstance(each, np.ndarray | np.generic | bool | int | float | str)
        if not isinstance(name, str) or not plain or np.asarray(each).dtype.kind not in KEPT:
            raise InputError(
                f"{where} is a {type(each).__name__}, allowed in a bundle: an array, a number, text, or a dict of "
                "these by name; open files and read what they hold in eval_samples"
            )
    return {name: np.asarray(each) for name, each in values.items()}


def image_in(raw: Any) -> dict[str, str] | None:  # noqa: ANN401 - whatever the user gives
    """Return name, axes and colour of the image where a raw sample is one image, uint8, and nothing else."""
    values = raw if isinstance(raw, dict) else {RAW: raw}
    ((name, value),) = values.items() if len(values) == 1 else [("", None)]
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        return None
    if value.ndim == 2:  # noqa: PLR2004 - rows and columns
        return {"name": name, "layout": "HW", "colour": COLOURS[1]}
    for layout in LAYOUTS if value.ndim == len("HWC") else ():
        if value.shape[layout.index("C")] in COLOURS:
            return {"name": name, "layout": layout, "colour": COLOURS[value.shape[layout.index("C")]]}
    return None


def try_without_torch(content: Content, folder: Path) -> None:
    """Let the new bundle's task make inputs, predictions and words in a Python that sees numpy alone, as a board does.

    Raises:
        InputError: it imports what a board lacks, reads files that do not ship, fails or comes to something else there.
    """
    command = [sys.executable, "-I", "-B", as_board.__file__, str(folder.resolve())]
    done = subprocess.run(  # noqa: S603 - a list, no shell
        command, check=False, capture_output=True, text=True, timeout=_LIMIT_S, cwd=folder
    )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise StageError(f"the bundle's task cannot be tried without torch: {done.stderr.strip()[-300:]}") from error
    if told["error"]:
        place = content.task.kit.path if isinstance(content.task.kit, FileTask) else f"task {content.task.kind}"
        if not told["lacks"]:
            raise InputError(f"{place}: the bundle was not written, because with its samples {told['error']}")
        raise InputError(
            f"{place}: the bundle was not written, because a board has Python, numpy and a runtime alone, and there "
            f"{told['error']}; allowed: import torch and other packages inside loss and train_batches, read data "
            "inside eval_samples and train_batches"
        )

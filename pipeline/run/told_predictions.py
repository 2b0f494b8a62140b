"""What an exported file predicts for single samples, for people: in the task's own words, and drawn where it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.bundle.on_device.infer import Rejected
from pipeline.bundle.on_device.task.infer import png_bytes, raw_image
from pipeline.bundle.on_device.task.task_code import TaskCode
from pipeline.bundle.task_parts import image_in
from pipeline.core.errors import InputError
from pipeline.core.partial import write_whole
from pipeline.core.paths import check_folder
from pipeline.core.printable import printable_text
from pipeline.data.task_file import FileTask
from pipeline.measure.batches import run_in_batches
from pipeline.run.evaluate_file import open_scored

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.stage import Runtime
    from pipeline.core.task import Task
    from pipeline.recipe import LoadedRecipe

TEXT = "predictions.txt"


def write_predictions(
    file: Path, loaded: LoadedRecipe, folder: Path, *, count: int, runtime: Runtime | None, threads: int
) -> int:
    """Write what a file predicts for the first validation samples: predictions.txt, and a PNG of each that is drawn.

    Args:
        file: an exported file whose inputs and outputs are those of the recipe's network.
        loaded: the recipe whose task and data are taken.
        folder: where to; it is made.
        count: the number of samples; all where there are fewer.
        runtime: None for the target's, or another that reads the file.
        threads: of the runtime.

    Returns:
        The number of samples.

    Raises:
        InputError: the file cannot be run or does not fit the task, or its outputs cannot be decoded, told or drawn.
        ResourceError: nothing can be written there.
    """
    check_folder(folder, "the folder of predictions", "give another with --predictions")
    opened = open_scored(file, loaded, runtime)
    task, count = opened.task, min(count, opened.task.count("validation"))
    feeds = (
        task.feeds("validation", range(start, min(start + opened.batch, count)))
        for start in range(0, count, opened.batch)
    )
    ran = run_in_batches(file, feeds, runtime=opened.runtime, threads=threads, batch=opened.batch)
    predictions = [
        each for outputs in ran for each in task.predictions(dict(zip(opened.outputs, outputs, strict=True)))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    raws = task.data.raw_samples("validation", slice(0, count))
    try:
        lines = [_told(task, *each, folder) for each in zip(range(count), predictions, raws, strict=True)]
    except Rejected as error:
        raise InputError(f"the predictions of {file.name} cannot be told: {error}") from error
    write_whole(folder / TEXT, "\n".join(lines) + "\n")
    return count


def _told(task: Task, place: int, prediction: Any, raw: Any, folder: Path) -> str:  # noqa: ANN401 - as the task decides
    """Return one sample's prediction in words, and write its drawing where the task draws into its image."""
    code = TaskCode(task.kit.given if isinstance(task.kit, FileTask) else task.kit, {"classes": task.data.classes})
    facts = {"image": image_in(raw), "raw_is_dict": isinstance(raw, dict)}
    if code.can_draw and facts["image"]:
        (folder / f"{place:04d}.png").write_bytes(png_bytes(code.draw(prediction, raw_image(raw, facts))))
    first, *others = printable_text(code.show(prediction, raw)).splitlines() or ["nothing"]
    return "\n".join([f"validation {place}: {first}", *(f"  {line}" for line in others)])

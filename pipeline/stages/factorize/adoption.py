"""Which factorised layers gain time: the network's file with each alone against the file without any, side by side."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.untouched import restored_afterwards
from pipeline.core.artifact import at_batch
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.pricing.opening import file_timer
from pipeline.pricing.timing import TOGETHER, VERDICT_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.results.run import Interval

#: Where files lie while they are timed.
FILES = "timed"


@dataclass(frozen=True)
class LayerTime:
    """Time of the file with one layer factorised, over that of the file without, with its 95 % interval."""

    ratio: Interval

    @property
    def faster(self) -> bool:
        """Whether a gain is proven."""
        return self.ratio.high < 1

    @property
    def text(self) -> str:
        """The ratio as people read it."""
        return f"{self.ratio.value:.3f}x [{self.ratio.low:.3f}, {self.ratio.high:.3f}] of the time"


def timed_alone(
    model: nn.Module, legs: Mapping[str, nn.Sequential], given: Artifact, context: Context
) -> dict[str, LayerTime]:
    """Time the network's FP32 file with each layer alone in factors; neither network nor legs change.

    Raises:
        InputError: the network cannot be exported.
        DeviceError: the device cannot be reached, went away, or is throttled.

    Cost: an export and about 15 s for each layer.
    """
    timer = file_timer(context)
    whole = _export(model, context.folder / FILES / "whole", given, context)
    names, found = [*legs], dict[str, LayerTime]()
    for start in range(0, len(names), TOGETHER):
        part = names[start : start + TOGETHER]
        context.progress.note(f"timing {len(part)} layers of {len(names)}, each alone in factors")
        files = []
        for name in part:
            other = deepcopy(model)
            other.set_submodule(name, deepcopy(legs[name]), strict=True)
            files.append(_export(other, context.folder / FILES / name, given, context))
        timed = timer.timed(whole, files, VERDICT_S)
        found |= {name: LayerTime(each.ratio) for name, each in zip(part, timed.ratios, strict=True)}
    return found


def _export(model: nn.Module, folder: Path, given: Artifact, context: Context) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with restored_afterwards(model):
        export_onnx(
            model,
            folder,
            at_batch(given.inputs, context.target.batch),
            [output.name for output in given.outputs],
            open_sizes=context.task().sizes,
        )
    return folder / FILE_NAME

"""Does an exported file compute the same as the network at other sizes than the samples', where its task opens them?

torch may turn a size into the number that it was while the graph was traced; the file then fails, or mixes up what it
is given, at any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import InputError, StageError
from pipeline.core.open_sizes import sizes_text
from pipeline.core.user_code import user_code_errors
from pipeline.export.execution import torch_outputs
from pipeline.export.parity import output_differences

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pipeline.core.feeds import Feeds
    from pipeline.core.nearness import Outputs
    from pipeline.core.task import Task

#: Samples on which other sizes are tried.
_SAMPLES = 4


def network_outputs(model: nn.Module) -> Callable[[Feeds], Outputs]:
    """Return what runs a network of torch; at sizes that it does not take, with the line of its code."""

    def run(feeds: Feeds) -> Outputs:
        with user_code_errors("the network does not take them", alone=True):
            return torch_outputs(model, feeds)

    return run


def require_other_sizes(
    task: Task, reference: Callable[[Feeds], Outputs], outputs: Callable[[Feeds], Outputs], tolerance: float
) -> None:
    """Compare what `reference` and `outputs` give for samples cut or repeated to the other sizes of a task.

    Raises:
        InputError: the network does not take these sizes, or its file does not because its code fixed them.
        StageError: outputs differ by more than `tolerance` of their scale.
    """
    count = task.count("train")
    feeds = task.feeds("train", slice(0, min(_SAMPLES, count)))
    for sizes in task.other_sizes():
        given = task.sizes.resized(feeds, sizes)
        told = f"the task leaves sizes open (dynamic), and was tried at {sizes_text(sizes)}"
        try:
            wanted = reference(given)
        except InputError as error:
            advice = "Mend its code, or list the sizes that it takes as `timed`"
            raise InputError(f"{told}: {error}. {advice}") from error
        try:
            apart = output_differences(wanted, outputs(given)).max_rel_to_scale
        except (InputError, StageError) as error:
            raise InputError(
                f"{told}: the exported file fails there ({error}), since the network's code fixes a size. Take sizes "
                "from x.shape in its forward, without int() or a number written out, or leave `dynamic` away"
            ) from error
        if apart > tolerance:
            raise StageError(
                f"{told}: network and exported file differ by {apart:.1e} of scale there, allowed is {tolerance:.0e}. "
                "Its code fixes a size: take it from x.shape in its forward, or leave `dynamic` away"
            )

"""A network ready to be priced: what makes its files, and the timer on the device that they are timed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compress.pruning.cost import macs_model
from pipeline.compress.pruning.damage import groups_inside
from pipeline.core.errors import InputError, UnreachableError
from pipeline.measure.devices import open_device
from pipeline.pricing.form import FileForm
from pipeline.pricing.making import FileMaker
from pipeline.pricing.pricer import PricedNetwork, Pricer
from pipeline.pricing.template import infer_template
from pipeline.pricing.timing import FileTimer
from pipeline.pricing.widths import NoTemplateError

if TYPE_CHECKING:
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.pricing.aim import LatencyAim
    from pipeline.pricing.choice import PricedStep
    from pipeline.pricing.prober import Prober
    from pipeline.pricing.sizes import ChosenSize
    from pipeline.results.run import Interval

#: Where probe files lie while they are timed.
PROBES = "probes"


def price_network(step: PricedStep, given: Artifact, context: Context, aim: LatencyAim, *, name: str) -> Pricer:
    """Return the pricer of a network; probing begins when it is asked for its model.

    Where smaller images are all that may change there is nothing to probe: whole files alone can be timed.

    Raises:
        InputError: nothing may leave, or a file of the network cannot be made.
        DeviceError: the target's device cannot be reached.
    """
    if not step.movable and "resolution" not in aim.moves:
        raise InputError(
            "target: no latency but that of the whole network can be reached: of the moves "
            f"{', '.join(aim.moves)} none is left with these keep, floor and align. Shorten keep, lower floor or "
            "align, or allow other moves"
        )
    context.progress.update(0, 1, "exporting the network at some widths")
    make = file_maker(step, given, context, aim)
    graph = step.network.graph
    groups = {group.name: group.width for group in graph.groups}
    template = None
    try:
        if step.movable:
            template = infer_template(make.at_widths, graph, step.grids, [*step.blocks.values()])
    except NoTemplateError as error:
        context.progress.note(f"real files are timed, without blocks as moves, since the file has no template: {error}")
    network = PricedNetwork(
        name=name,
        precision=aim.file,
        groups=groups,
        grids=step.grids,
        droppable=tuple(step.blocks) if template else (),
        inside=groups_inside(graph, [*step.blocks.values()]),
        macs=macs_model(graph),
        make=make,
        template=template,
    )
    return Pricer(
        network,
        file_timer(context),
        context.folder / PROBES / "x".join(str(size) for spec in given.inputs for size in spec.shape[1:]),
        context.seed,
    )


def file_timer(context: Context) -> FileTimer:
    """Return what times files on the target's device. Raises DeviceError when it cannot be reached."""
    target = context.target
    device = None if target.device == "local" else open_device(target.device)
    return FileTimer(target, context.task().first_shapes(target.batch), context.seed, device, context.progress)


def file_maker(step: PricedStep, given: Artifact, context: Context, aim: LatencyAim) -> FileMaker:
    """Return what makes real files of what is left of a network, in the precision that ships."""
    form = FileForm.of_file(aim.file, given, context)
    return FileMaker(step.network.captured, step.network.graph, step.model, form)


def asked_share(aim: LatencyAim, prober: Prober) -> tuple[Interval, float]:
    """Return the whole file's milliseconds, and what is asked for as a share of them.

    Raises:
        UnreachableError: the whole network takes less already.
        DeviceError: the device cannot be reached, went away, or is throttled.
    """
    whole = prober.profile.whole if aim.milliseconds is None else prober.whole_now()
    factor = aim.budget_ms(whole.value) / whole.value
    if factor >= 1:
        raise UnreachableError(
            f"target: the whole network's file in {aim.file} takes {whole.value:.3g} ms already, found "
            f"{aim.milliseconds:g}ms, allowed: less than that"
        )
    return whole, factor


@dataclass(frozen=True)
class SmallerImage:
    """A network that has been given smaller images.

    Attributes:
        found: which, and what a target counts from.
        make: makes files of the network at the size that it was given.
        name: of the input.
        macs: operations of one image at the given size.
    """

    found: ChosenSize
    make: FileMaker
    name: str
    macs: int

"""What a latency is of: the file that the later stages of a recipe make, and how a recipe writes it. Loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.quantization.names import DEFAULT_ENGINE
from pipeline.core.cpu import cpu_flags
from pipeline.core.file_precision import FLOAT, FilePrecision
from pipeline.core.units import Factor, factor_or_duration_text
from pipeline.precision.targets import resolved_scheme
from pipeline.pricing.aim import LatencyAim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.stage import Stage, Target
    from pipeline.pricing.aim import Move


def aim_of(asked: Factor | float, file: FilePrecision, moves: tuple[Move, ...] = ()) -> LatencyAim:
    """Return what is asked for, a factor or seconds, as an aim."""
    factor, milliseconds = (float(asked), None) if isinstance(asked, Factor) else (None, asked * 1000)
    return LatencyAim(factor, milliseconds, file, moves)


def shipped(stages: Sequence[Stage]) -> tuple[FilePrecision, str]:
    """Return the precision of the last file of resolved stages, and the kind of stage that gives it; "" for none."""
    made = [(found, stage.kind) for stage in stages if (found := stage.ships())]
    return made[-1] if made else (FilePrecision(), "")


def priced_file(precision: str | None, stages: Sequence[Stage]) -> FilePrecision:
    """Return what kind of file is timed: of the precision that was asked for, else as the later stages make it."""
    found, _ = shipped(stages)
    if precision in {None, found.precision}:
        return found
    if precision == FLOAT:
        return FilePrecision()
    scheme = resolved_scheme("auto", cpu_flags()) if precision == "int8" else ""
    return FilePrecision(precision=str(precision), engine=DEFAULT_ENGINE, scheme=scheme)


def pricing_note(asked: Factor | float | None, file: FilePrecision, target: Target, whole: str = "unpruned") -> str:
    """Say in one line what is timed, and down to what; `whole` names the network that a factor counts from."""
    text = "" if asked is None else factor_or_duration_text(asked)
    where = f"{target.runtime} on {target.device}, {target.threads} thread{'s' if target.threads > 1 else ''}"
    batch = f", batch {target.batch}" if target.batch > 1 else ""
    down_to = f"{text} of the {whole} file" if isinstance(asked, Factor) else f"at most {text}"
    chosen = "" if file.certain else "; quantize chooses the precision by time, so the final file is checked again"
    return f"priced as {file} in {where}{batch}; {down_to}{chosen}"


def other_precision(precision: str | None, stages: Sequence[Stage]) -> str:
    """Say that what ships has another precision than the one that is priced; empty where it has that one."""
    found, kind = shipped(stages)
    if precision in {None, found.precision}:
        return ""
    makes = f"the {kind} stage after it makes {found.precision}" if kind else "no stage after it quantizes"
    return f"priced in {precision}, but {makes}: the file that ships has another time; remove precision to price that"

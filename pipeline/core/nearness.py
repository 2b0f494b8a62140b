"""How near a file in fewer bits is to its float file: signal to noise, answers, and what is far.

The threshold lies between what rounding does and what a wrong graph does. Of 194 int8 files of four trained networks
(`benchmarks/results/quantization/auto.jsonl`) the noisiest, by a calibration that clips much, had 16.6 dB at the logits
and lost 0.5 points of accuracy; files with a dropped clip or an unscaled bias had 4.9 and 0.8 dB. At 10 dB the noise is
a third of the signal: more than rounding to 8 bits explains in any of them. A network after one epoch, whose logits
have not spread yet, had 7.6 dB and lost no accuracy: between 6 and 10 dB answers decide, where they are told.

A network whose classes lie close together keeps its signal to noise, and so is not far for its small margins. Answers
are judged where the float file is surest, and only where it knows more than the commonest class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.classification import is_logits, predicted_classes, share_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Outputs = Sequence[NDArray[Any]]
    #: Outputs of the float file, of the other one, and the labels [N]: what a task says of its answers.
    Task = Callable[[Outputs, Outputs, NDArray[np.int64]], "Answers | None"]

#: What becomes of a far file: guilty layers go back to float, the stage fails, or it ships as it is.
OnFar = Literal["float", "fail", "keep"]
#: What became of a file.
Decision = Literal["near", "float", "kept"]
#: The key of a row's `changed` under which a `Nearness` stands.
NEARNESS = "nearness"
#: How words about a far file begin.
FAR = "far from the float file"
#: How words about a file begin that is near for what went back.
BACK = "back in float"
#: Least ratio of signal to noise in dB, and what stands for equality or for outputs that are no numbers.
LEAST_DECIBELS, MOST_DECIBELS = 10.0, 150.0
#: Below this, where the noise is half of the signal, no agreement of answers helps.
_HOPELESS_DECIBELS = 6.0
#: How words about outputs begin that are of no use to anybody, whatever a recipe allows.
USELESS = "outputs are"
#: From here on outputs differ by no more than the rounding of float32, 1e-6 of their size.
_EQUAL_DECIBELS = 120.0
#: Answers are far when, for certain, less than this share of the agreement beyond chance is left (Cohen's kappa).
_LEAST_KAPPA = 0.5
#: Layers that go back to float at most: where more are guilty, the way of quantizing is.
MOST_LAYERS = 4
#: Standard errors that make it certain.
_CERTAIN = 2.0


class Answers(FrozenModel):
    """How often two files give the same answer: on all images, and beyond chance (kappa) on the surer half of them.

    `margin` is the uncertainty of `kappa`; both are absent where the images cannot tell: there is one answer only.
    `knows` is false where the float file knows no more than the commonest class: other answers are no worse then.
    """

    agreement: float
    kappa: float | None = None
    margin: float | None = None
    knows: bool = True

    @property
    def far(self) -> bool:
        """Whether the answers have too little to do with each other, for certain."""
        if not self.knows or self.kappa is None or self.margin is None:
            return False
        return self.kappa + self.margin < _LEAST_KAPPA

    @property
    def alike(self) -> bool:
        """Whether the answers have much to do with each other, for certain."""
        return self.kappa is not None and self.margin is not None and self.kappa - self.margin >= _LEAST_KAPPA


class Seen(FrozenModel):
    """Outputs of one kind of images in one kind of session against the float file. `fault` says why they are far.

    `agreement` is how far predictions are those of the float file, from 0 to 1, for kinds of tasks that can say so: it
    is told, and decides nothing.
    """

    images: str
    count: int
    session: str
    decibels: float
    answers: Answers | None = None
    agreement: float | None = Field(default=None, exclude_if=lambda given: given is None)
    fault: str = ""


class Nearness(FrozenModel):
    """Whether a file in fewer bits is near its float file, and what was done where it was not.

    `near`: nothing had to be done. `float`: the nodes of `in_float` went back to float, without which it was far.
    `kept`: it is far, and ships all the same since the recipe says so. `seen` is of the file that ships; `text` says in
    words why the file was far.
    """

    decision: Decision
    decibels: float
    least_decibels: float = LEAST_DECIBELS
    seen: tuple[Seen, ...]
    in_float: tuple[str, ...] = ()
    text: str = ""

    @property
    def why(self) -> str:
        """Why the file was far, without saying again that it was."""
        return self.text.removeprefix(f"{FAR}: ")


def noise_decibels(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the ratio of signal to noise of an output [N, ...] in dB, from -150 to 150.

    150 stands for equality, -150 for values that are not finite or a reference that is zero everywhere.
    """
    signal = reference.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        noise = float(np.square(signal - found).sum())
        power = float(np.square(signal).sum())
    if not math.isfinite(noise):
        return -MOST_DECIBELS
    if noise <= power * 10 ** (-MOST_DECIBELS / 10):
        return MOST_DECIBELS
    return max(-MOST_DECIBELS, 10 * math.log10(power / noise)) if power > 0 else -MOST_DECIBELS


def lowest_decibels(reference: Outputs, found: Outputs) -> float:
    """Return the lowest ratio of signal to noise of all outputs; of whole numbers only where none has a point."""
    pairs = list(zip(reference, found, strict=True))
    points = [pair for pair in pairs if np.issubdtype(pair[0].dtype, np.floating)]
    return min(noise_decibels(*pair) for pair in points or pairs)


def compare_classes(reference: Outputs, found: Outputs, labels: NDArray[np.int64]) -> Answers | None:
    """Compare the largest logits [N, classes] of the first outputs; None where these are no logits.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960), also for the standard error.
    """
    logits, others = reference[0], found[0]
    if not is_logits(logits) or others.shape != logits.shape:
        return None
    before, after = predicted_classes(logits), predicted_classes(others)
    commonest = np.bincount(labels).max() / len(labels)
    knows = bool(share_equal(before, labels) > commonest + 1 / math.sqrt(len(labels)))
    ranked = np.sort(logits, axis=1)
    margins = ranked[:, -1] - ranked[:, -2]
    sure = margins >= np.median(margins)
    kappa, margin = _kappa(before[sure], after[sure])
    return Answers(agreement=share_equal(before, after), kappa=kappa, margin=margin, knows=knows)


def _kappa(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Return the agreement of answers [N] beyond chance, and how uncertain it is; None where chance explains all."""
    classes = np.union1d(before, after)
    shares = [(each[:, None] == classes).mean(axis=0) for each in (before, after)]
    chance, same = float(shares[0] @ shares[1]), float((before == after).mean())
    if chance >= 1:
        return None, None
    spread = math.sqrt(max(same * (1 - same), 1 / len(before)) / len(before))
    return (same - chance) / (1 - chance), _CERTAIN * spread / (1 - chance)


def nearness_fault(reference: Outputs, found: Outputs, answers: Answers | None) -> str:
    """Say why outputs are far from the reference's; empty where they are near."""
    for one, other in zip(reference, found, strict=True):
        if not np.isfinite(other).all():
            return f"{USELESS} not finite"
        if _constant(other) and not _constant(one) and noise_decibels(one, other) < _EQUAL_DECIBELS:
            return f"{USELESS} the same for all {len(other)} images"
    lowest = lowest_decibels(reference, found)
    if lowest < _HOPELESS_DECIBELS or (lowest < LEAST_DECIBELS and not (answers and answers.alike)):
        return f"{lowest:.1f} dB of signal to noise where at least {LEAST_DECIBELS:g} are expected"
    if answers is not None and answers.far:
        return f"answers agree on {answers.agreement:.0%} of the images and hardly beyond chance where float is sure"
    return ""


def guilty_nodes(nodes: Sequence[str], is_near: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """Return the few nodes, in the order of computation, without which a file is near; None where they are not few.

    `is_near` says whether the file is near with these nodes in float; it is far with none. Each node is found by
    halving: the first ones are quantized and all others in float, until one more makes the file far.
    """
    found: list[str] = []
    known = 0  # with nodes[:known], but for those found, in fewer bits the file is near
    while len(found) < MOST_LAYERS and known < len(nodes):
        far = len(nodes)
        while far - known > 1:
            middle = (known + far) // 2
            if is_near((*found, *nodes[middle:])):
                known = middle
            else:
                far = middle
        found.append(nodes[far - 1])
        known = far
        if is_near(tuple(found)):
            return tuple(found)
    return None


def _constant(output: NDArray[Any]) -> bool:
    return len(output) > 1 and bool((output == output[:1]).all())

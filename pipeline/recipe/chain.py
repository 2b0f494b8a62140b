"""Whether each stage of a recipe can start from what the stages before it leave, before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.core.runtimes import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.core.artifact import Form
    from pipeline.core.file_precision import FilePrecision
    from pipeline.core.stage import Stage

    Found = Iterator[tuple[int, str, str]]

#: Exports go to the right alone.
ORDER: tuple[Form, ...] = tuple(FORMS)


def chain_problems(stages: Sequence[Stage]) -> Found:
    """Yield position, key and message for each stage that cannot start from what it is given, or cannot be skipped.

    The chain starts from the recipe's model, which is torch. After a problem the check goes on as if what its message
    says had been done, so that one mistake is told once.
    """
    chain = _Chain(stages)
    for index, stage in enumerate(stages):
        yield from chain.undone(index, stage)
        yield from chain.step(index, stage)


@dataclass
class _Chain:
    """What the stages so far leave.

    Attributes:
        stages: all of the recipe.
        form: the form of what they leave.
        makers: which stage made each form, by its position.
        kept: what later stages must keep, and which stage has made it.
        quantized: a precision that a file was brought to, and by which stage.
    """

    stages: Sequence[Stage]
    form: Form = "torch"
    makers: dict[Form, int] = field(default_factory=dict)
    kept: dict[str, Stage] = field(default_factory=dict)
    quantized: tuple[FilePrecision, str] | None = None

    def undone(self, index: int, stage: Stage) -> Found:
        """Yield what the stage would undo of those before it."""
        for what, (key, why) in (("zeros", stage.fills_zeros), ("clusters", stage.parts_clusters)):
            if key and what in self.kept:
                first = self.kept[what]
                can_follow = _product(stage) in first.consumes
                remedy = f"move {first.kind} behind it" if can_follow else f"change {key}, or remove {first.kind}"
                yield index, key, f"{why}; the {what} that {first.kind} makes would be lost: {remedy}"
        made = {"zeros": stage.makes_masks, "clusters": stage.makes_clusters}
        self.kept |= {what: stage for what, makes in made.items() if makes}

    def step(self, index: int, stage: Stage) -> Found:
        """Yield why the stage cannot stand here; go on to what it leaves."""
        if stage.last and index != len(self.stages) - 1:
            yield index, "kind", self._not_last(index, stage)
            return
        if self.form not in stage.consumes:
            exports, remedy = self._remedy(index, stage)
            needs = " or ".join(sorted(stage.consumes))
            before = f"the stage before it ({self.stages[index - 1].kind})" if index else "the recipe's model"
            yield index, "kind", f"{stage.kind} needs {needs}, but {before} gives {self.form}: {remedy}"
            if not exports:
                return
            self.form = exports[-1]
        elif self.quantized and (why := stage.precision_fault(self.quantized[0])):
            yield index, "kind", f"{why}, which {self.quantized[1]} makes: remove one of the two"
        elif ships := stage.ships():
            self.quantized = ships, f"{stage.kind} (stages.{index})"
        made = stage.produces(self.form)
        if stage.on_no_gain == "skip" and made != self.form:
            why = f"{stage.kind} turns {self.form} into {made}, so the next stage cannot start from the file before"
            yield index, "on_no_gain", f'found "skip", allowed: keep, fail: {why}'
        if made != self.form:
            self.makers[made] = index
        self.form = made

    def _not_last(self, index: int, stage: Stage) -> str:
        """Say what is to be done with a stage that others follow which must be the last."""
        kinds = [other.kind for other in self.stages[index + 1 :]]
        if stage.kind in kinds:
            other = index + 1 + kinds.index(stage.kind)
            return f"{stage.kind} must be the last stage, and stages.{other} is another: remove this one"
        come = "comes" if len(kinds) == 1 else "come"
        return f"{stage.kind} must be the last stage, but after it {come} {', '.join(kinds)}: move it to the end"

    def _remedy(self, index: int, stage: Stage) -> tuple[tuple[Form, ...], str]:
        """Return the exports to put before a stage, none where it is the one to move or remove, and that in words."""
        later = ORDER[ORDER.index(self.form) + 1 :]
        target = next((each for each in later if each in stage.consumes), None)
        if target is None:
            return (), self._too_late(stage)
        for at, other in enumerate(self.stages[index + 1 :], index + 1):
            if other.converts and _product(other) == target:
                return (), f"move it behind {other.label} (stages.{at})"
        exports = later[: later.index(target) + 1]
        return exports, f"put {' and '.join(f'{{kind: export, to: {each}}}' for each in exports)} between"

    def _too_late(self, stage: Stage) -> str:
        """Say where a stage belongs that needs an earlier form: an exported network cannot become torch again."""
        made = _product(stage)
        if made not in stage.consumes and made in self.makers:
            at = self.makers[made]
            other = self.stages[at]
            if other.label == stage.label:
                return f"remove one of the two (stages.{at} is the other)"
            if stage.converts:
                return f"remove it, since {other.kind} (stages.{at}) gives {made} already"
            if other.converts:
                return f"put it in place of {other.label} (stages.{at}), since it gives {made} itself"
        needed = next(each for each in reversed(ORDER[: ORDER.index(self.form)]) if each in stage.consumes)
        left = next(each for each in ORDER[ORDER.index(needed) + 1 :] if each in self.makers or each == self.form)
        by = self.stages[self.makers[left]] if left in self.makers else None
        return f"move it to before {f'the export to {left}' if by is None or by.converts else by.kind}"


def _product(stage: Stage) -> Form:
    """Return the form that a stage ends with where it gets one that it can start from."""
    return stage.produces(min(stage.consumes))

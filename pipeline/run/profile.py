"""The cost model of a network on a device, as `prune` with a latency as target builds and uses it.

Probes are kept by graph, precision, runtime and machine: what a run has measured is there for a profile, and the other
way round.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from pipeline.analysis.feeds import random_feeds
from pipeline.compress.quantization.names import OtherPrecision
from pipeline.compress.training.inference import named_outputs
from pipeline.core.artifact import Artifact, TensorSpec, at_batch
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError
from pipeline.core.runtimes import shipping_runtimes
from pipeline.core.stage import Context, Target
from pipeline.core.task import Task
from pipeline.core.user_code import user_code_errors
from pipeline.pricing.aim import Move
from pipeline.recipe import device_fault
from pipeline.run.runner import Run
from pipeline.stages import Prune, priced_stage
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.core.stage import Progress, Runtime
    from pipeline.core.store import Store
    from pipeline.inspect.model_argument import Model
    from pipeline.pricing.pricer import Pricer
    from pipeline.recipe import LoadedRecipe
    from pipeline.results.profile import CostProfile

#: What a file can be priced in.
PRECISIONS: tuple[str, ...] = ("fp32", "int8", *get_args(OtherPrecision))
MOVES: tuple[str, ...] = get_args(Move)
#: Random samples that stand for data.
_SAMPLES = 32


@dataclass(frozen=True)
class PricingTerms:
    """What is priced and where, so far as it is not as the recipe says, or as by default: None leaves it there."""

    device: str | None = None
    runtime: Runtime | None = None
    threads: int | None = None
    precision: str | None = None
    moves: tuple[str, ...] | None = None

    def of_stage(self) -> dict[str, object]:
        """Return the keys of the stage that win over a recipe's."""
        return {"precision": self.precision, "moves": self.moves}

    def target(self, given: Target) -> Target:
        """Return the target with what is set here.

        Raises:
            InputError: a value is not allowed, or the device is unknown or emulated.
        """
        if fault := next(self._faults(), ""):
            raise InputError(fault)
        found = {"device": self.device, "runtime": self.runtime, "threads": self.threads}
        return given.model_copy(update={name: value for name, value in found.items() if value is not None})

    def _faults(self) -> Iterator[str]:
        if self.device is not None and (fault := device_fault(self.device)):
            yield f"device: {fault}"
        if self.runtime is not None and self.runtime not in shipping_runtimes():
            yield f'runtime: found "{self.runtime}", allowed: {", ".join(shipping_runtimes())}'
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}, allowed: 1 or more"
        if self.precision is not None and self.precision not in PRECISIONS:
            yield f'precision: found "{self.precision}", allowed: {", ".join(PRECISIONS)}'
        if self.moves is not None and (not self.moves or not {*self.moves} <= {*MOVES}):
            yield f'moves: found "{",".join(self.moves)}", allowed: {", ".join(MOVES)}, one or more'


@dataclass(frozen=True)
class KeptProfile:
    """A profile, and the file in which it is kept."""

    profile: CostProfile
    file: Path


def profile_recipe(
    loaded: LoadedRecipe, terms: PricingTerms, store: Store, *, seed: int, progress: Progress, fresh: bool = False
) -> KeptProfile:
    """Price the network that a recipe starts from, as its `prune` stage with a latency as target would.

    A recipe without such a stage has its network priced in the precision that its stages ship, with that stage's
    defaults.

    Args:
        loaded: the recipe.
        terms: what is not as the recipe says.
        store: where the network is taken from, or kept.
        seed: of everything random.
        progress: told how far it is, and what of the recipe does not count.
        fresh: take no probes that were measured before.

    Raises:
        InputError: the recipe, its network or the terms cannot be used.
        DeviceError: the device cannot be reached, went away, or is throttled; what was measured is kept.
    """
    target = terms.target(loaded.recipe.target)
    stage = priced_stage(loaded.recipe.stages, terms.of_stage(), progress.note)
    _require_runtime(stage, target)
    loaded = replace(loaded, recipe=loaded.recipe.model_copy(update={"target": target}))
    with tempfile.TemporaryDirectory(prefix="secateur-profile-") as folder:
        run = Run(loaded, Path(folder), store, seed, progress, test=False)
        try:
            original = run.original()
            context = Context(Path(folder), seed, target, original, lambda: run.task, progress=progress)
            with user_code_errors("profile failed"):
                return _kept(stage.price(original, context, fresh=fresh))
        finally:
            store.release()


def profile_model(
    model: Model, terms: PricingTerms, *, seed: int, progress: Progress, fresh: bool = False
) -> KeptProfile:
    """Price a network without a recipe, with the defaults of `prune`; random samples stand for its data.

    Arguments and errors are those of `profile_recipe`.
    """
    target = terms.target(Target())
    stage = priced_stage((), terms.of_stage(), progress.note)
    network = model.network.eval()
    (feeds,) = random_feeds(at_batch(model.inputs, _SAMPLES), _SAMPLES, seed)
    samples = Samples(feeds, [0] * _SAMPLES)
    task = Task(open_kit("classification", classes=("any",)), Arrays("random numbers", samples, samples, samples))
    with tempfile.TemporaryDirectory(prefix="secateur-profile-") as folder, user_code_errors(f"{model.name} failed"):
        given = Artifact(form="torch", folder=Path(folder), digest="", inputs=model.inputs, outputs=_outputs(model))
        context = Context(Path(folder), seed, target, given, lambda: task, progress=progress)
        return _kept(stage.price(given, context, network, fresh=fresh))


def _require_runtime(stage: Prune, target: Target) -> None:
    """Raise InputError where no file can be timed in the target's runtime."""
    for _, fault in stage.unmet(target):
        raise InputError(fault)


def _outputs(model: Model) -> tuple[TensorSpec, ...]:
    """Return names and sizes of what a network gives for zeros."""
    example = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in at_batch(model.inputs, 2)]
    with torch.no_grad():
        found = named_outputs(model.network(*example))
    return tuple(TensorSpec(name=name, shape=tuple(output.shape)) for name, output in found.items())


def _kept(pricer: Pricer) -> KeptProfile:
    return KeptProfile(pricer.profile, pricer.kept)

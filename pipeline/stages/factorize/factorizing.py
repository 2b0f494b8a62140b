"""Factorisation of an artifact: what may be factorised, its options, one budget, the factors, and the record."""

from __future__ import annotations

import fnmatch
import shutil
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from pipeline.compress.factorization.budget import (
    LayerChoice,
    cheapest_loss,
    counted_price,
    least_cost,
    within_error,
)
from pipeline.compress.factorization.legs import layer_matrix
from pipeline.compress.factorization.matrices import relative_error
from pipeline.compress.factorization.merging import merge_back
from pipeline.compress.factorization.options import RankRule, break_even_rank, layer_options
from pipeline.compress.factorization.replacing import above_break_even, factor_layers, merge_layers
from pipeline.compress.factorization.sites import find_sites
from pipeline.compress.pruning.cost import count_cost
from pipeline.compress.pruning.samples import Samples
from pipeline.compress.pruning.selection import check_patterns
from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.errors import InputError, StageError
from pipeline.core.problems import first_names
from pipeline.network.masks import sparse_names
from pipeline.network.stored import factored_layers, load_network, write_network
from pipeline.network.tracing import example_of
from pipeline.pricing.form import FileForm
from pipeline.pricing.opening import PROBES, file_timer
from pipeline.pricing.rank_search import RankedNetwork, RankProber, RankSearch
from pipeline.results.latency_target import LATENCY
from pipeline.stages.factorize.adoption import timed_alone
from pipeline.stages.factorize.inputs import InputMoments
from pipeline.stages.factorize.record import factor_record, left_out, totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.factorization.names import BudgetName, FactorKind, MethodName
    from pipeline.compress.factorization.options import Option
    from pipeline.compress.factorization.sites import Site
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.pricing.aim import LatencyAim
    from pipeline.results.latency_target import LatencyTarget
    from pipeline.stages.factorize.adoption import LayerTime

#: What is said of a layer that could be factorised, and was not.
NOT_NEEDED = "the target is met without it"
FACTORISED = "is factorised already"
SPARSE = "its weights are sparse, and a product has no zeros in their places: factorize before sparsify"
NAMED = "named in keep"


@dataclass(frozen=True)
class FactorizeRequest:
    """One factorisation as a recipe asks for it; the keys are those of the stage."""

    target: tuple[BudgetName, float]
    aim: LatencyAim | None
    method: MethodName
    whiten: bool
    images: int
    batch: int
    align: int
    least: int
    keep: Sequence[str]
    measured: bool


class Factorizing:
    """One run of a request: `run` leaves the factorised artifact's payload in the context's folder."""

    def __init__(self, request: FactorizeRequest, given: Artifact, context: Context) -> None:
        """Load the network, merge back what was factorised before and does not pay now, and find what may be now.

        Raises InputError where a pattern of `keep` names no layer.
        """
        self.request, self.given, self.context = request, given, context
        context.progress.update(0, 4, "finding layers")
        self.model, self.example = load_network(given), example_of(given, context)
        self.before = count_cost(self.model, self.example)
        factored, sparse = factored_layers(given), sparse_names(given)
        # With a latency pairs stay: whether one layer would be faster is for time to say, and none is measured as one.
        dear = [] if request.aim else above_break_even(self.model, factored, self.example)
        self.merged = [name for name in dear if not _within(name, sparse)]
        merge_layers(self.model, self.merged)
        sites, self.left = find_sites(self.model, self.example)
        self.left |= {site.name: SPARSE for site in sites if _within(site.name, sparse)}
        self.sites = self._wanted(sites, [name for name in factored if name not in self.merged])
        self.moments = InputMoments(self.model, self._samples()) if request.whiten else None
        self.latency: LatencyTarget | None = None

    def run(self) -> dict[str, Any]:
        """Factorise, and return what changed as plain JSON.

        Raises:
            InputError: no layer has a rank below break-even and none was merged back, or the target cannot be reached.
            StageError: nothing would be factorised or merged back.
            DeviceError: the device of `adopt: measured` cannot be reached, went away, or is throttled.
        """
        self.context.progress.update(1, 4, "weighing ranks")
        layers = self._layers()
        chosen = self._chosen(layers)
        self.context.progress.update(2, 4, "factorising")
        factored, errors = self._factored(chosen)
        times: dict[str, LayerTime] = {}
        if self.request.measured and factored:
            times = timed_alone(self.model, factored, self.given, self.context)
            bought = {name for name, time in times.items() if time.faster}
            self.left |= {name: f"its file is not faster: {times[name].text}" for name in chosen if name not in bought}
            chosen = {name: option for name, option in chosen.items() if name in bought}
        self.left |= {name: NOT_NEEDED for name in layers if name not in chosen and name not in self.left}
        return self._written({name: factored[name] for name in chosen}, chosen, errors, times)

    def _wanted(self, sites: Sequence[Site], factored: Sequence[str]) -> dict[str, Site]:
        """Return the sites that the request allows, and note why the others stay."""
        check_patterns("keep", self.request.keep, {*(site.name for site in sites), *self.left})
        wanted = {}
        for site in sites:
            if site.name in self.left:
                continue
            if any(_within(name, [site.name]) for name in factored):
                self.left[site.name] = FACTORISED
            elif any(fnmatch.fnmatchcase(site.name, pattern) for pattern in self.request.keep):
                self.left[site.name] = NAMED
            elif not self._kinds(site):
                self.left[site.name] = f"method {self.request.method} does not fit its kernel"
            else:
                wanted[site.name] = site
        return wanted

    def _kinds(self, site: Site) -> tuple[FactorKind, ...]:
        method = self.request.method
        return tuple(kind for kind in site.kinds if kind == "svd" or method in {"auto", kind})

    def _samples(self) -> Samples:
        """Return the training images in batches that the network takes; two at a time where its code fixes that."""
        fixed = self._fixed_batch
        names = tuple(each.name for each in self.given.outputs)
        context = self.context
        size = fixed or self.request.batch
        return Samples(
            context.task, self.request.images, size, context.seed, drop_last=fixed is not None, output_names=names
        )

    @cached_property
    def _fixed_batch(self) -> int | None:
        """The only batch that the network takes; None where it takes others than the example's."""
        try:
            forward_outputs(self.model, tuple(torch.cat([each, each]) for each in self.example))
        except Exception:  # noqa: BLE001 - whatever the network's code raises for another batch
            return len(self.example[0])
        return None

    def _layers(self) -> dict[str, LayerChoice]:
        """Return what each layer may become, and note why some may become nothing."""
        rule = RankRule(self.request.align, self.request.least)
        found: dict[str, LayerChoice] = {}
        for name, gram in self._with_grams(self.sites):
            site = self.sites[name]
            try:
                options = layer_options(site, self._kinds(site), gram, rule)
            except ValueError as error:
                self.left[name] = str(error)
                continue
            if options:
                found[name] = LayerChoice(site.cost.macs, site.cost.parameters, options)
            else:
                self.left[name] = _no_rank(rule)
        if not found and not self.merged:
            raise InputError(
                f"Nothing can be factorised: rank above break-even everywhere, or layers that cannot be: "
                f"{left_out(self.left)}.{self._highest_break_even()} Lower align or min_rank, shorten keep, or choose "
                "another method"
            )
        return found

    def _highest_break_even(self) -> str:
        ranks = {
            name: max(break_even_rank(site, kind) for kind in self._kinds(site)) for name, site in self.sites.items()
        }
        if not ranks:
            return ""
        name = max(ranks, key=lambda each: ranks[each])
        return f" The highest is that of {name}, {ranks[name]:.3g}."

    def _with_grams(self, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an iterator of names and tensors
        """Yield names, each with the second moments of its inputs; None where these are not looked at."""
        if self.moments is None:
            yield from ((name, None) for name in names)
        else:
            yield from self.moments.of({name: self.sites[name].layer for name in names})

    def _chosen(self, layers: Mapping[str, LayerChoice]) -> dict[str, Option]:
        name, fraction = self.request.target
        if name == "latency":
            chosen = self._within_time(layers)
        elif name == "energy":
            chosen = within_error(layers, 1 - fraction)
        else:
            chosen = self._within_cost(layers, name, fraction)
        if not chosen and not self.merged:
            raise StageError(
                f"target: {{{name}: {fraction:g}}} factorises no layer of {len(layers)} that could be. Lower it, "
                "align or min_rank, or remove the stage"
            )
        return chosen

    def _within_cost(
        self, layers: Mapping[str, LayerChoice], name: Literal["macs", "parameters"], fraction: float
    ) -> dict[str, Option]:
        whole = getattr(self.before, name)
        now = getattr(count_cost(self.model, self.example), name)
        rest = now - sum(getattr(layer, name) for layer in layers.values())
        price = counted_price(layers, name)
        least = (rest + least_cost(layers, price)) / whole
        if least > fraction:
            merged = f" and {first_names(self.merged)} merged back" if self.merged else ""
            raise InputError(
                f"target: {fraction:g} of the {name} cannot be reached: with the least rank in each of {len(layers)} "
                f"layers{merged} {least:.3f} are left. Not factorised: {left_out(self.left)}. Raise the target, lower "
                "align or min_rank, shorten keep, or prune"
            )
        return cheapest_loss(layers, price, fraction * whole - rest)

    def _within_time(self, layers: Mapping[str, LayerChoice]) -> dict[str, Option]:
        """Return the options with which the measured file takes as long as was asked for, and note what was found."""
        if self.request.aim is None:
            raise ValueError("found no latency; expected a request that aims at one")
        aim, context = self.request.aim, self.context
        network = RankedNetwork(
            model=self.model,
            cost=self.before,
            sites={name: self.sites[name] for name in layers},
            kinds={name: self._kinds(self.sites[name]) for name in layers},
            rule=RankRule(self.request.align, self.request.least),
            precision=aim.file,
            form=FileForm.of_file(aim.file, self.given, context),
            batch=self._fixed_batch,
            is_original=self.given.digest == context.original.digest,
        )
        prober = RankProber(network, file_timer(context), context.folder / PROBES, context.seed)
        chosen, self.latency = RankSearch(aim, prober).choose(layers, self._network_with)
        shutil.rmtree(context.folder / PROBES)
        return chosen

    def _network_with(self, chosen: Mapping[str, Option]) -> nn.Module:
        """Return a copy of the network with these options."""
        other = deepcopy(self.model)
        for name, legs in self._factored(chosen)[0].items():
            other.set_submodule(name, legs, strict=True)
        return other

    def _factored(self, chosen: Mapping[str, Option]) -> tuple[dict[str, nn.Sequential], dict[str, float]]:
        """Return the legs of each chosen layer, and the relative error of its output as they are."""
        legs: dict[str, nn.Sequential] = {}
        errors: dict[str, float] = {}
        for name, gram in self._with_grams(chosen):
            holder = nn.ModuleDict({"layer": deepcopy(self.sites[name].layer)})
            factor_layers(holder, {"layer": chosen[name].factor}, {} if gram is None else {"layer": gram})
            legs[name] = holder.get_submodule("layer")  # type: ignore[assignment]
            errors[name] = _error(self.sites[name].layer, legs[name], gram)
        return legs, errors

    def _written(
        self,
        legs: Mapping[str, nn.Sequential],
        chosen: Mapping[str, Option],
        errors: Mapping[str, float],
        times: Mapping[str, LayerTime],
    ) -> dict[str, Any]:
        """Write the network with these legs, and return the record."""
        for name, each in legs.items():
            self.model.set_submodule(name, each, strict=True)
        self.context.progress.update(3, 4, "renewing batch norms")
        if legs or self.merged:
            recalibrate_batchnorm(self.model, (inputs for inputs, _ in self._samples().training()))
        edit: dict[str, Any] = {"kind": "factorize", "keep": {}}
        edit |= {"merge": self.merged} if self.merged else {}
        edit |= {"factor": {name: option.factor.as_json() for name, option in chosen.items()}} if chosen else {}
        edits = [edit] if chosen or self.merged else []
        write_network(self.context.folder, self.model, parent=self.given, edits=edits)
        after = count_cost(self.model, self.example)
        return {
            **totals(self.before, after, self.request.target),
            **({LATENCY: self.latency.model_dump(mode="json")} if self.latency else {}),
            "factorised": {
                name: factor_record(self.sites[name], option, errors[name], times.get(name))
                for name, option in chosen.items()
            },
            **({"merged_back": self.merged} if self.merged else {}),
            **({"not_whitened": found} if self.moments and (found := self.moments.too_large) else {}),
            "left": _by_reason(self.left),
        }


def _error(layer: nn.Module, legs: nn.Sequential, gram: Tensor | None) -> float:
    weight, other = (layer_matrix(each).flatten(1) for each in (layer, merge_back(legs)))
    return relative_error(weight, other, gram)


def _no_rank(rule: RankRule) -> str:
    least = f" and at least {rule.least}" if rule.least > rule.align else ""
    return f"no rank that is a multiple of {rule.align}{least} is below break-even"


def _within(layer: str, names: Iterable[str]) -> bool:
    """Say whether any of these names is of something in a layer."""
    return any(name.startswith(f"{layer}.") for name in names)


def _by_reason(left: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in left.items():
        found.setdefault(reason, []).append(name)
    return found

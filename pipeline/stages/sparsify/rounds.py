"""Weights of an artifact's network to zero in rounds of cutting and training, each finished before the next begins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.compress.sparsity.allocation import SparsityAim, chosen_masks
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.methods import require_fewer
from pipeline.compress.sparsity.moving import kept_share
from pipeline.compress.sparsity.request import Solution
from pipeline.compress.sparsity.rounds import L1Penalty, quality_scores, rescale_dropout, round_density, scan_qualities
from pipeline.compress.training.seeds import epoch_seed
from pipeline.network.masks import masks_of
from pipeline.network.phases import Phases
from pipeline.network.stored import load_network, write_network
from pipeline.network.training import epoch_history, make_training, train_artifact
from pipeline.stages.sparsify.dead import settle_dead
from pipeline.stages.sparsify.making import aim_of, alive_masks, apply_solution, names_with, samples_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context
    from pipeline.network.phases import Record
    from pipeline.stages.sparsify.config import SparsifyConfig, SparsifySchedule

#: The phases of the rounds, in the stage's folder.
PHASES = "phases"


class Rounds:
    """One run of the rounds: `run` leaves the network's payload in the context's folder."""

    def __init__(self, config: SparsifyConfig, schedule: SparsifySchedule, given: Artifact, context: Context) -> None:
        """Look at the network that is given. Raises InputError as `solve_masks` does."""
        self.config, self.schedule, self.given, self.context = config, schedule, given, context
        model = load_network(given)
        alive = alive_masks(model, sparse_layers(model, config.keep), given)
        require_fewer(aim_of(config), alive)
        self.start, self.end = kept_share(alive.values()), aim_of(config).density

    def run(self) -> Record:
        """Cut and train in turn, from where an earlier, killed run got to; return what changed as plain JSON.

        Raises StageError when training diverges.
        """
        phases = Phases(self.context.folder / PHASES, self.given, self.context.progress.note)
        scanned = phases.run(self._scan)
        rounds = []
        for number in range(1, self.schedule.rounds + 1):
            cut = phases.run(partial(self._cut, number=number, qualities=scanned["qualities"]))
            rounds.append({**cut, **phases.run(partial(self._train, number=number))})
        settled = phases.run(self._settle) if self.config.dead == "fold" else {"density": rounds[-1]["density"]}
        phases.finish(self.context.folder)
        shares = {"before": self.start, "after": settled.pop("density")}
        return {"density": shares, "qualities": scanned["qualities"], "rounds": rounds, **settled}

    def _scan(self, given: Artifact, folder: Path) -> Record:
        """Find how much each layer bears; the network stays."""
        model = load_network(given)
        layers, samples = sparse_layers(model, self.config.keep), samples_for(self.config, self.context)
        done = 0

        def score() -> float:
            nonlocal done
            done += 1
            self.context.progress.update(done, done + 1, f"scanning {len(layers)} layers")
            return samples.score(model, renew=False)

        qualities = scan_qualities(layers, alive_masks(model, layers, given), score, self.schedule.tolerance)
        write_network(folder, model, parent=given)
        return {"qualities": qualities}

    def _cut(self, given: Artifact, folder: Path, *, number: int, qualities: Mapping[str, float]) -> Record:
        """Cut down to the density of a round."""
        model = load_network(given)
        layers = sparse_layers(model, self.config.keep)
        scores = quality_scores(layers, alive_masks(model, layers, given), qualities)
        density = round_density(self.start, self.end, number, self.schedule.rounds)
        masks = chosen_masks(scores, layers, SparsityAim(density, "global"))
        apply_solution(layers, Solution(masks))
        write_network(folder, model, parent=given, sparse=names_with(given, masks))
        return {"density": kept_share(masks.values())}

    def _train(self, given: Artifact, folder: Path, *, number: int) -> Record:
        """Train what is left."""
        model = load_network(given)
        layers = sparse_layers(model, self.config.keep)
        names = [each.name for each in layers]
        densities = {name: kept_share([mask]) for name, mask in masks_of(model, names).items()}
        inputs, _ = next(samples_for(self.config, self.context).training())
        rates = rescale_dropout(model, inputs, densities, layers)
        seed, penalty = epoch_seed(self.context.seed, number), L1Penalty(names, self.schedule.l1)
        training = make_training(self.schedule, model, self.context, given=given, seed=seed, regulariser=penalty)
        label = f"round {number}/{self.schedule.rounds}, "
        train_artifact(training, given, folder, self.context.progress, label=label)
        best = epoch_history(training)[training.best_epoch - 1]
        told = {name: value for name, value in best.items() if name.startswith("validation_")}
        return {"best_epoch": training.best_epoch, **told, **({"dropout": rates} if rates else {})}

    def _settle(self, given: Artifact, folder: Path) -> Record:
        """Fold what is dead in the end."""
        model = load_network(given)
        dead = settle_dead(self.config, model, given, self.context)
        masks = masks_of(model, [each.name for each in sparse_layers(model, self.config.keep)])
        write_network(folder, model, parent=given, sparse=names_with(given, masks))
        return {"density": kept_share(masks.values()), **dead}

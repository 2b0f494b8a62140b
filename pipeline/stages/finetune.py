"""Train the network on labels, and on a teacher when asked: after pruning, before it, or from the start.

Source: knowledge distillation by Hinton et al. 2015, of feature maps by Romero et al. 2015, of attention maps by
Zagoruyko and Komodakis 2017; cosine schedule by Loshchilov and Hutter 2017; adaptive batch norm by Li et al. 2020;
`regularise` names its own. Retraining matters as much as the pruning criterion (Wang et al. 2023).
It does not help when the learning rate is so small that the network cannot leave the minimum that pruning destroyed:
prefer a tenth to a half of the rate that the network was first trained with. The weights that did best on the
validation split are kept; with `regularise` those of the last epoch, which the penalty has worked on longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.artifact import Form
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.network.training_config import Regularise, TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pipeline.compress.pruning.graph import Group
    from pipeline.compress.training.training import TrainingRun
    from pipeline.core.artifact import Artifact


class Finetune(TrainingConfig, Stage):
    """Train, keep the best weights by validation accuracy."""

    revision: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})

    kind: Literal["finetune"]
    store: Literal["float32", "float16"] = Field(
        default="float32",
        description="Precision of the stored weights (biases and norms stay in float32); accuracy is that of the "
        "stored weights.",
    )
    regularise: Regularise | None = Field(
        default=None, description="Make channels small while training, for a `prune` stage after this one."
    )

    weights: Literal["given", "scratch"] = Field(
        default="given",
        exclude_if=lambda chosen: chosen == "given",  # so that configurations without it are those that they were
        description="What the training starts from: the network's weights, or new ones for the same layers, drawn with "
        "the run's seed (scratch): the control that tells what the weights are worth that compression has left (Liu et "
        "al. 2019). Zeros that `sparsify` made stay.",
    )

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """`store: float16`, which rounds each weight by itself, and new weights."""
        if self.weights == "scratch":
            return "weights", "found scratch, allowed after share: given"
        return ("store", "found float16, allowed after share: float32") if self.store == "float16" else ("", "")

    def files(self) -> tuple[Path, ...]:
        """Return the teacher's files."""
        return self.teacher_files()

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Train on from where an earlier, killed run of this stage got to. Raises StageError when training diverges."""
        from pipeline.compress.training.scratch import reset_weights
        from pipeline.network.masks import masks_of, sparse_names
        from pipeline.network.stored import load_network
        from pipeline.network.training import build_regulariser, make_training, removable_groups, train_artifact

        model = load_network(given)
        if self.weights == "scratch":
            reset_weights(model, masks_of(model, sparse_names(given)), context.seed)
        groups = removable_groups(model, given) if self.regularise else ()
        penalty = build_regulariser(self.regularise, groups, model) if self.regularise else None
        training = make_training(self, model, context, given=given, seed=context.seed, regulariser=penalty)
        trained = train_artifact(training, given, context.folder, context.progress, half=self.store == "float16")
        changed = {**self._changes(training), **_small(groups, trained)}
        return Outcome("torch", given.inputs, given.outputs, changed=changed)

    def _changes(self, training: TrainingRun) -> dict[str, Any]:
        from pipeline.network.training import epoch_history

        return {
            "device": training.device.type,
            "best_epoch": training.best_epoch,
            "history": epoch_history(training),
        }


def _small(groups: tuple[Group, ...], model: nn.Module) -> dict[str, Any]:
    """Return how many channels the penalty has brought near zero."""
    from pipeline.compress.pruning.regularisation import near_zero

    if not groups:
        return {}
    channels = sum(group.width for group in groups)
    return {"near_zero": {"channels": near_zero(groups, dict(model.named_parameters())), "of": channels}}

"""Losses of detection: which cells answer for which box, quality focal loss and generalised IoU.

Sources: Tian et al. 2019 (FCOS: centre sampling, a stride for each size), Li et al. 2020 (quality focal loss: the class
of a cell is to be as certain as its box is good), Rezatofighi et al. 2019 (generalised IoU).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .detection import Detection

#: Cells whose centre is nearer than this, in strides, to that of a box answer for it.
RADIUS = 1.5
#: A wrong box costs as much as this many wrong classes.
BOX_WEIGHT = 2.0


class Cells(NamedTuple):
    """All cells of all strides: centres [N, 2] in pixels, strides [N], largest half side of a box by cell [N, 2]."""

    centres: Tensor
    strides: Tensor
    bounds: Tensor


def detection_loss(maps: Sequence[Tensor], targets: Sequence[Tensor], task: Detection) -> Tensor:
    """Return the loss of maps [B, C, H, W] of all strides for boxes [N, 5] of each sample, by positive cell."""
    import torch

    cells = _cells(maps, task)
    values = _flat(maps)  # [B, N, C]
    owners = torch.stack([_owners(cells, each.to(values.device)) for each in targets])  # [B, N], -1: none
    logits, quality = values[..., 4:], torch.zeros_like(values[..., 4:])
    places, cell = torch.nonzero(owners >= 0, as_tuple=True)
    total = max(len(places), 1)
    if len(places) == 0:
        return _quality_focal(logits, quality).sum() / total
    truth = torch.cat([each.to(values.device)[owners[i][owners[i] >= 0]] for i, each in enumerate(targets)])
    boxes = _boxes(values[places, cell, :4], cells.centres[cell], cells.strides[cell], task.distances)
    overlap, generalised = _overlaps(boxes, truth[:, :4])
    classes, good = truth[:, 4].long(), overlap.detach()
    wrong_boxes = BOX_WEIGHT * (1 - generalised).sum() / total
    if not task.objectness:
        quality[places, cell, classes] = good
        return _quality_focal(logits, quality).sum() / total + wrong_boxes
    quality[places, cell, -1] = good
    wrong = torch.nn.functional.cross_entropy(logits[places, cell, :-1], classes, reduction="sum") / total
    return _quality_focal(logits[..., -1], quality[..., -1]).sum() / total + wrong + wrong_boxes


def detection_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], task: Detection) -> Tensor:
    """Return quality focal loss to the teacher's scores, plus the mean difference of edges weighted by these."""
    from torch.nn.functional import smooth_l1_loss

    one, other = _flat(student), _flat(teacher).detach()
    scores = other[..., 4:].sigmoid()
    weight = scores.amax(dim=-1, keepdim=True)
    total = weight.sum().clamp(min=1.0)
    near, wanted = (_distances(each[..., :4], task.distances) for each in (one, other))
    edges = (weight * smooth_l1_loss(near, wanted, reduction="none")).sum() / (4 * total)
    return _quality_focal(one[..., 4:], scores).sum() / total + edges


def _flat(maps: Sequence[Tensor]) -> Tensor:
    """Return maps [B, C, H, W] of all strides as [B, N, C]."""
    import torch

    return torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1)


def _cells(maps: Sequence[Tensor], task: Detection) -> Cells:
    import torch

    centres, strides, bounds, low = [], [], [], 0.0
    for place, (each, stride) in enumerate(zip(maps, task.strides)):
        height, width = each.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5) * stride)
        high = float("inf") if place == len(maps) - 1 else task.reach * stride
        strides.append(torch.full((height * width,), float(stride)))
        bounds.append(torch.tensor([[low, high]]).expand(height * width, 2))
        low = high
    return Cells(*(torch.cat(each).to(maps[0].device) for each in (centres, strides, bounds)))


def _owners(cells: Cells, boxes_M5: Tensor) -> Tensor:
    """Return the box that each cell [N] answers for, the smallest of several; -1 where it answers for none.

    A box belongs to the stride for its longer side, and there to the cells inside it that are near its centre; to the
    cell that holds the centre in any case, so that none is left out.
    """
    import torch

    if len(boxes_M5) == 0:
        return torch.full((len(cells.strides),), -1, dtype=torch.int64, device=cells.strides.device)
    low, high = boxes_M5[None, :, :2], boxes_M5[None, :, 2:4]
    centres, strides = cells.centres[:, None], cells.strides[:, None]
    away = (centres - (low + high) / 2).abs().amax(dim=-1)
    inside = ((centres > low) & (centres < high)).all(dim=-1)
    half = (high - low).amax(dim=-1) / 2
    of_stride = (half > cells.bounds[:, :1]) & (half <= cells.bounds[:, 1:])
    answers = of_stride & ((inside & (away < RADIUS * strides)) | (away <= strides / 2))
    area = (high - low).prod(dim=-1).expand(answers.shape)
    smallest = torch.where(answers, area, torch.inf).argmin(dim=1)
    return torch.where(answers.any(dim=1), smallest, -1)


def _distances(values: Tensor, how: str) -> Tensor:
    from torch.nn.functional import softplus

    if how == "linear":
        return values
    return softplus(values) if how == "softplus" else values.clamp(max=20).exp()


def _boxes(values_M4: Tensor, centres_M2: Tensor, strides_M: Tensor, how: str) -> Tensor:
    import torch

    distances = _distances(values_M4, how) * strides_M[:, None]
    return torch.cat([centres_M2 - distances[:, :2], centres_M2 + distances[:, 2:]], dim=1)


def _overlaps(one_M4: Tensor, other_M4: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU [M] and generalised IoU [M] of pairs of boxes; sides below zero count as zero."""
    import torch

    def area(low: Tensor, high: Tensor) -> Any:
        return (high - low).clamp(min=0).prod(dim=1)

    common = area(torch.maximum(one_M4[:, :2], other_M4[:, :2]), torch.minimum(one_M4[:, 2:], other_M4[:, 2:]))
    union = area(one_M4[:, :2], one_M4[:, 2:]) + area(other_M4[:, :2], other_M4[:, 2:]) - common
    hull = area(torch.minimum(one_M4[:, :2], other_M4[:, :2]), torch.maximum(one_M4[:, 2:], other_M4[:, 2:]))
    overlap = common / union.clamp(min=1e-6)
    return overlap, overlap - (hull - union) / hull.clamp(min=1e-6)


def _quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Return |quality - p|^2 times the cross entropy of p = sigmoid(logits), element by element."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    entropy = binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return entropy * (quality - logits.sigmoid()).abs().square()

"""Imports torchvision and timm next to a CPU build of torch, for which there is no matching torchvision.

torchvision registers rules for compiled operators that are missing then, and refuses to be imported; their schemas,
defined first, are all it needs. The operators themselves (boxes, regions of interest) cannot be called.
"""

from __future__ import annotations

import torch

__all__ = ["timm", "torchvision"]

_OPERATORS = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
_OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
_OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)

import timm  # noqa: E402 (it imports torchvision)
import torchvision  # noqa: E402 (after the operators)

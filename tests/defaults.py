"""What methods are asked for by a recipe that says no more than what is given here: defaults stand in stages alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.quantization.engines.onnxruntime import OnnxRuntime
from pipeline.compress.training.augmentation import Augmentation
from pipeline.network.training_config import Augment
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.request import request_of
from pipeline.stages.prune import Prune

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.pruning.selection import SelectionRules
    from pipeline.compress.quantization.engines.engine import QuantizedGraph, QuantizeRequest
    from pipeline.compress.quantization.names import Scheme
    from pipeline.core.feeds import Feeds


def asked(scheme: Scheme, **changes: Any) -> QuantizeRequest:  # noqa: ANN401 - fields of the request
    """Return a request to an engine of quantization."""
    return replace(request_of(QuantizationConfig(), scheme), **changes)


def quantize_static(
    model: ModelProto,
    samples: Feeds | NDArray[np.float32],
    *,
    scheme: Scheme,
    **changes: Any,  # noqa: ANN401 - fields of the request
) -> QuantizedGraph:
    """Return the graph that onnxruntime's engine quantizes, calibrated by min-max unless another way is given.

    An array stands for samples of the only input.
    """
    changes["keep"] = tuple(changes.get("keep", ()))
    feeds = {model.graph.input[0].name: samples} if isinstance(samples, np.ndarray) else samples
    return OnnxRuntime().quantize(model, feeds, asked(scheme, **{"calibration": "min-max", **changes}))


def rules(**changes: Any) -> SelectionRules:  # noqa: ANN401 - fields of the rules
    """Return what a pruning is asked for."""
    return replace(Prune.model_validate({"kind": "prune", "ratio": 0.5})._job(0).rules, **changes)


def augmentation(**changes: bool | float) -> Augmentation:
    """Return random changes of training images."""
    return Augmentation(**Augment.model_validate(changes).model_dump())

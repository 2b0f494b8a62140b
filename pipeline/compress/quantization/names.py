"""Names that recipes, engines and the search share. Loads nothing."""

from __future__ import annotations

from typing import Literal

#: Types of activations and weights; `reduced` weights have 7 bits, for processors whose int8 products saturate.
Scheme = Literal["u8s8", "u8s8-reduced", "s8s8", "u8u8"]
#: How ranges are chosen from what activations were seen; the last three look at a histogram.
Calibration = Literal["min-max", "percentile", "entropy", "mse"]
HistogramMethod = Literal["percentile", "entropy", "mse"]
EngineName = Literal["onnxruntime", "neural-compressor", "nncf"]
#: What quantizes where nothing else is asked for.
DEFAULT_ENGINE: EngineName = "onnxruntime"
#: What a file can be computed or stored in beside int8.
OtherPrecision = Literal["int8-dynamic", "int8-weights", "int4-weights", "fp16-weights", "fp16"]
#: Those with a scale for each block of weights, so that equal weights of a layer are not equal integers.
IN_BLOCKS: tuple[OtherPrecision, ...] = ("int8-weights", "int4-weights")
#: How accuracy is recovered without labels.
Recovery = Literal["equalize", "bias", "adaround"]

"""What a recipe calls the options of weight sharing."""

from __future__ import annotations

from typing import Literal

#: Where centroids stand before the first round of k-means.
CentroidStart = Literal["linear", "density", "kmeans++"]
#: One codebook for a layer, or one for each of its output channels.
CodebookScope = Literal["layer", "channel"]
#: What values a codebook may have: any, or those of weights in 8 or 7 bits with a scale for each output channel.
CodebookGrid = Literal["float", "int8", "int7"]
#: What a recipe calls the grids of a network: `-products` are those of matrix products alone, beside any values.
GridChoice = Literal["auto", "float", "int8", "int7", "int8-products", "int7-products"]
#: The largest integer of the grids of quantized weights.
GRID_LEVELS: dict[CodebookGrid, int] = {"int8": 127, "int7": 64}
#: What a step of the optimizer sees of a cluster: the gradient of its centroid, or that over its number of weights.
CentroidGradient = Literal["sum", "mean"]

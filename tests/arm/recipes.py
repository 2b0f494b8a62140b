"""Small recipes that end with a bundle: from weights that come with the project to exported files, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"
SAMPLES = 4
RECIPE = """\
format: 1
name: {name}
model:
  definition: {models}/{model}/model.py
  weights: {models}/{model}/weights.safetensors
  arguments: {arguments}
data: {data}
target: {{runtime: onnxruntime, threads: 1}}
stages:
  - {{kind: export, to: onnx}}
  - {{kind: simplify}}
{quantize}  - {{kind: export, to: openvino}}
  - {{kind: bundle, samples: {samples}}}
"""
#: (model, its arguments, data)
RESNET = ("resnet_cifar", "{classes: 10, channels: 1, depth: 20}", "{source: fashion-mnist, validation_images: 200}")
EFFICIENTNET = ("efficientnet_lite0", "{classes: 2}", "{source: elpv, size: 64, channels: 3}")
INT8 = "  - {kind: quantize, images: 64}\n"
EXACT = "  - {kind: quantize, images: 64, arm_exact: true}\n"


@dataclass(frozen=True)
class Recipe:
    """A recipe by its name; `exact` says that every processor must compute the same bits in onnxruntime."""

    name: str
    network: tuple[str, str, str]
    quantize: str = ""

    @property
    def exact(self) -> bool:
        """Whether every bit counts."""
        return self.quantize == EXACT

    @property
    def text(self) -> str:
        """The YAML."""
        model, arguments, data = self.network
        return RECIPE.format(
            name=self.name,
            models=MODELS,
            model=model,
            arguments=arguments,
            data=data,
            quantize=self.quantize,
            samples=SAMPLES,
        )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("ResNet-20 float", RESNET),
        Recipe("ResNet-20 int8 arm_exact", RESNET, EXACT),
        Recipe("ResNet-20 int8", RESNET, INT8),
        Recipe("EfficientNet-Lite0 int8 arm_exact", EFFICIENTNET, EXACT),
        Recipe("EfficientNet-Lite0 int8", EFFICIENTNET, INT8),
    )
}

"""Chooses the networks of coverage.py and writes coverage_models.yaml; takes some minutes.

All classifiers of torchvision; of timm, the smallest network of every family in every source file, and the variants
named below; segmentation networks, backbones of detectors and video classifiers of torchvision; the configurations of
coverage_transformers.py. A network gets images of 128 pixels where it takes them, else of its own size.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from coverage_libraries import timm, torchvision
from coverage_models import LIST, Entry, build
from coverage_transformers import CONFIGURED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIXELS = 128
IMAGE = (3, 224, 224)
VIDEO = (3, 4, 56, 56)
#: Sizes that the source does not tell.
OWN = {"ssd300_vgg16": (3, 300, 300)}
#: Families of one timm file that are taken, the smallest first, and the most parameters of any.
FAMILIES = 4
PARAMETERS = 100e6
#: Structures of timm that the rule leaves out: another stem, norm, activation, pooling, attention or padding.
VARIANTS = """
byoanet=botnet26t_256
byobnet=gcresnext26ts mobileone_s0 resnet61q bat_resnext26ts
convnext=convnext_atto_ols
deit=deit_tiny_distilled_patch16_224
dla=dla34
efficientnet=efficientnet_b0 efficientnetv2_rw_t fbnetc_100 mixnet_s tf_efficientnet_b0
ghostnet=ghostnetv2_100
levit=levit_conv_128s
mobilenetv3=mobilenetv4_conv_small mobilenetv4_hybrid_medium
res2net=res2net50_14w_8s
resnet=resnet18 resnet26t resnet50d ecaresnet26t
resnetv2=resnetv2_50x1_bit
swin_transformer_v2_cr=swinv2_cr_tiny_ns_224
twins=twins_pcpvt_small
vision_transformer=vit_base_patch32_clip_224 vit_xsmall_patch16_clip_224
vision_transformer_relpos=vit_relpos_small_patch16_224
xcit=xcit_nano_12_p16_224
"""
#: Families whose smallest network is too large, at two blocks.
SHORTENED = {
    "deepseek_vit": "deepseek_vit_412m",
    "gemma4_vit": "gemma4_vit_167m",
    "vision_transformer": "aimv2_large_patch14_224",
}
#: Siblings whose code is that of a smaller network of the list, too large for the time that a run may take.
BIG = re.compile(
    r"vit_(l|h)_|swin_(v2_)?(s|b)$|regnet_[xy]_(16|32|128)gf|convnext_(base|large)|efficientnet_(b6|b7|v2_l)"
    r"|resnext101_64x4d|resnet152|wide_resnet101|vgg1[369]|densenet(161|201)"
)
SEGMENTATION = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
DETECTORS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
VIDEOS = ("r3d_18", "mc3_18", "r2plus1d_18")
#: One of each kind of structure, for a first look after a change of the engine.
QUICK = """
torchvision/resnet18 torchvision/mobilenet_v3_small torchvision/densenet121 torchvision/shufflenet_v2_x0_5
torchvision/googlenet torchvision/vit_b_32 torchvision/swin_t torchvision-segmentation/lraspp_mobilenet_v3_large
torchvision-backbone/fasterrcnn_mobilenet_v3_large_fpn timm/vit_tiny_patch16_224 timm/levit_128s timm/mixnet_s
timm/cs3darknet_focus_s timm/gmlp_ti16_224 timm/coatnet_pico_rw_224 timm/botnet26t_256 timm/resnest14d
timm/ghostnet_050 timm/convnextv2_atto timm/mobilevit_xxs transformers/bert transformers/llama transformers/detr
"""


def chosen() -> Iterator[Entry]:
    """Yield what the rule chooses, without input sizes."""
    for name in torchvision.models.list_models(module=torchvision.models):
        yield Entry(f"torchvision/{name}", re.split(r"[\d_]", name)[0])
    yield from timm_entries()
    for source, names in {"segmentation": SEGMENTATION, "backbone": DETECTORS, "video": VIDEOS}.items():
        yield from (Entry(f"torchvision-{source}/{name}", source) for name in names)
    yield from (Entry(f"transformers/{name}", name) for name in CONFIGURED)


def timm_entries() -> Iterator[Entry]:
    """Yield the smallest of each family of each file, and the variants."""
    variants = dict(line.split("=") for line in VARIANTS.split("\n") if line)
    for file in timm.list_modules():
        sizes = {name: _parameters(name) for name in timm.list_models(module=file) if not name.startswith("test_")}
        smallest: dict[str, str] = {}
        for name in sorted(sizes, key=sizes.__getitem__):
            smallest.setdefault(re.split(r"\d|_", name.removeprefix("tf_").removeprefix("legacy_"))[0], name)
        names = [name for name in smallest.values() if sizes[name] <= PARAMETERS][:FAMILIES]
        for name in dict.fromkeys([*names, *variants.get(file, "").split()]):
            yield Entry(f"timm/{name}", file)
        if file in SHORTENED:
            yield Entry(f"timm/{SHORTENED[file]}", file, arguments={"depth": 2})


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in timm.create_model(name).parameters())


def sized(entry: Entry) -> Entry:
    """Return the entry with the first input size that its network takes. Raises RuntimeError when it takes none."""
    sets = ("big",) if entry.source == "torchvision" and BIG.match(entry.model) else ("all",)
    entry = replace(entry, sets=(*sets, "quick") if entry.name in QUICK.split() else sets)
    if entry.source == "transformers":
        return entry
    if entry.source == "torchvision-video":
        return replace(entry, input=VIDEO)
    own = timm.get_pretrained_cfg(entry.model).input_size if entry.source == "timm" else OWN.get(entry.model, IMAGE)
    for size in ((3, PIXELS, PIXELS), own):
        candidate = replace(entry, input=size)
        model, example = build(candidate)
        try:
            with torch.no_grad():
                model(*example)
        except (RuntimeError, AssertionError, ValueError):
            continue
        return candidate
    raise RuntimeError(f"{entry.name} takes images of neither {PIXELS} pixels nor {own}")


def lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the lines of the list."""
    yield "# Written by coverage_list.py. Sets: all, big (large siblings), quick (one of each kind)."
    for entry in entries:
        values = {key: value for key, value in asdict(entry).items() if key != "name" and (value or key == "input")}
        values |= {"input": list(entry.input), "sets": list(entry.sets)}
        yield f"{entry.name}: {str(values).replace(chr(39), '')}"


def main() -> None:
    """Write the list."""
    torch.set_num_threads(1)
    found = []
    for entry in chosen():
        found.append(sized(entry))
        print(found[-1].name, found[-1].input, flush=True)
    Path(LIST).write_text("\n".join(lines(found)) + "\n")


if __name__ == "__main__":
    main()

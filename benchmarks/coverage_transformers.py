"""Networks of the transformers library for coverage.py: the published structure at a small size, by configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Made = tuple[nn.Module, tuple[Tensor, ...]]

BATCH = 2
WORDS = 200
TOKENS = 16
CLASSES = 10
#: Width, feed-forward width, layers and heads of most of them.
SIZE = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
PICTURE = {"image_size": 64, "patch_size": 16, "num_labels": CLASSES}


class Named(nn.Module):
    """A network that takes named inputs and returns named outputs, made to take and return tensors in order."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Take the network, the names of its inputs, and those of its outputs that count."""
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs that were asked for."""
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.outputs)


def made(kind: str, config: str, *, inputs: dict[str, Tensor], outputs: tuple[str, ...], **settings: Any) -> Made:  # noqa: ANN401 (of the library)
    """Return the network of a class and a configuration, and a batch for it."""
    import transformers  # noqa: PLC0415 (a second, which most networks of the list need not wait)

    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    return Named(model, tuple(inputs), outputs), tuple(inputs.values())


def images(size: int = 64) -> dict[str, Tensor]:
    """Return a batch of images by the name that the library uses."""
    return {"pixel_values": torch.randn(BATCH, 3, size, size)}


def tokens(*names: str) -> dict[str, Tensor]:
    """Return batches of tokens by name."""
    return {name: torch.randint(0, WORDS, (BATCH, TOKENS)) for name in names or ("input_ids",)}


def text(family: str, **settings: Any) -> Callable[[], Made]:  # noqa: ANN401 (of the library)
    """Return a maker of a text classifier."""
    return lambda: made(
        f"{family}ForSequenceClassification",
        f"{family}Config",
        inputs=tokens(),
        outputs=("logits",),
        vocab_size=WORDS,
        num_labels=CLASSES,
        pad_token_id=None,
        **settings,
    )


def vision(family: str, **settings: Any) -> Callable[[], Made]:  # noqa: ANN401 (of the library)
    """Return a maker of an image classifier."""
    return lambda: made(
        f"{family}ForImageClassification",
        f"{family}Config",
        inputs=images(),
        outputs=("logits",),
        **{**PICTURE, **settings},
    )


def language(family: str, **settings: Any) -> Callable[[], Made]:  # noqa: ANN401 (of the library)
    """Return a maker of a decoder that predicts the next token."""
    return lambda: made(
        f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM",
        f"{family}Config",
        inputs=tokens(),
        outputs=("logits",),
        vocab_size=WORDS,
        use_cache=False,
        **settings,
    )


def detr() -> Made:
    """Return DETR on a small ResNet."""
    from transformers import ResNetConfig  # noqa: PLC0415 (as above)

    backbone = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return made(
        "DetrForObjectDetection",
        "DetrConfig",
        inputs=images(),
        outputs=("logits", "pred_boxes"),
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        backbone=None,
        d_model=96,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        num_queries=12,
        num_labels=CLASSES,
    )


def yolos() -> Made:
    """Return YOLOS: a ViT whose extra tokens are boxes."""
    return made(
        "YolosForObjectDetection",
        "YolosConfig",
        inputs=images(),
        outputs=("logits", "pred_boxes"),
        **{**SIZE, **PICTURE, "image_size": [64, 64], "num_detection_tokens": 8, "use_mid_position_embeddings": False},
    )


def segformer() -> Made:
    """Return SegFormer with its decoder."""
    return made(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        inputs=images(),
        outputs=("logits",),
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=64,
        num_labels=CLASSES,
    )


def t5() -> Made:
    """Return T5: encoder and decoder over one table of tokens."""
    return made(
        "T5ForConditionalGeneration",
        "T5Config",
        inputs=tokens("input_ids", "decoder_input_ids"),
        outputs=("logits",),
        vocab_size=WORDS,
        d_model=96,
        d_kv=24,
        d_ff=192,
        num_layers=2,
        num_heads=4,
        use_cache=False,
    )


def clip() -> Made:
    """Return CLIP: an image tower and a text tower that share one space."""
    return made(
        "CLIPModel",
        "CLIPConfig",
        inputs={**tokens(), **images()},
        outputs=("logits_per_image",),
        text_config={**SIZE, "vocab_size": WORDS, "max_position_embeddings": TOKENS, "eos_token_id": WORDS - 1},
        vision_config={**SIZE, "image_size": 64, "patch_size": 16},
        projection_dim=48,
    )


def wav2vec2() -> Made:
    """Return Wav2Vec2: convolutions over sound, then a transformer."""
    return made(
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        inputs={"input_values": torch.randn(BATCH, 2000)},
        outputs=("logits",),
        conv_dim=[32, 32, 32],
        conv_stride=[5, 2, 2],
        conv_kernel=[10, 3, 3],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_labels=CLASSES,
        **SIZE,
    )


#: By model name.
CONFIGURED: dict[str, Callable[[], Made]] = {
    "bert": text("Bert", **SIZE),
    "distilbert": text("DistilBert", dim=96, hidden_dim=192, n_layers=3, n_heads=4),
    "albert": text("Albert", embedding_size=32, **SIZE),
    "gpt2": language("GPT2", n_embd=96, n_layer=3, n_head=4, n_positions=64),
    "llama": language("Llama", num_key_value_heads=2, **SIZE),
    "t5": t5,
    "vit": vision("ViT", **SIZE),
    "dinov2": vision("Dinov2", **SIZE),
    "swin": vision("Swin", patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "convnextv2": vision("ConvNextV2", patch_size=4, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "segformer": segformer,
    "detr": detr,
    "yolos": yolos,
    "clip": clip,
    "wav2vec2": wav2vec2,
}

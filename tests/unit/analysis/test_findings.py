"""What is worth a look: counted by hand on small networks of layers and links."""

from __future__ import annotations

from pipeline.analysis.findings import float_islands, inspection_findings
from pipeline.analysis.precision_map import Link
from pipeline.results.file_inspection import FileLayer, Quantizer, Weights


def quantizer(tensor: str, *, scale: float = 0.1) -> Quantizer:
    """Return one scale in 8 bits."""
    return Quantizer(
        tensor=tensor,
        dtype="uint8",
        bits=8,
        scales=1,
        scale_min=scale,
        scale_max=scale,
        zero_point_min=0,
        zero_point_max=0,
        low=0.0,
        high=25.5,
    )


def layer(name: str, operator: str = "Conv", **fields: object) -> FileLayer:
    """Return a layer with 100 outputs, on integers."""
    return FileLayer.model_validate({"name": name, "operator": operator, "precision": "int8", "outputs": 100, **fields})


def link(maker: str | None, reader: str, *, pair: bool = True) -> Link:
    """Return a link through a pair of converters, or without one."""
    tensor = maker or "image"
    return Link(tensor, maker, reader, quantizer(tensor) if pair else None)


LINKS = (link(None, "a"), link("a", "gelu"), link("gelu", "norm", pair=False), link("norm", "b"), link("b", "end"))


def test_float_between_integers_is_an_island() -> None:
    """Widened once and narrowed once, each time four bytes and one for each of 100 numbers."""
    layers = (
        layer("a"),
        layer("gelu", "Gelu", precision="float32"),
        layer("norm", "LayerNormalization", precision="float32"),
        layer("b"),
        layer("end", "Softmax", precision="float32"),
    )
    (island,) = float_islands(layers, LINKS)
    assert (island.layers, island.operators) == (("gelu", "norm"), ("Gelu", "LayerNormalization"))
    assert island.tensors == ("a", "norm")
    assert island.converted_bytes == 2 * 100 * (4 + 1)
    told = {finding.kind: finding for finding in inspection_findings(layers, (island,))}
    assert told["float island"].layers == ("gelu", "norm")
    assert "1,000 bytes" in told["float island"].message
    assert told["left in float"].layers == ("end",)


def test_the_runtime_decides_what_is_an_island() -> None:
    """A layer that the file asks for on integers and the runtime computes in float is one, and is told as such."""
    layers = (layer("a"), layer("gelu", "Mul", ran_in="float32"), layer("norm", "Mul"), layer("b"), layer("end"))
    links = (*LINKS[:2], link("gelu", "norm"), *LINKS[3:])
    (island,) = float_islands(layers, links)
    assert island.layers == ("gelu",)
    told = inspection_findings(layers, (island,))
    assert [finding.kind for finding in told] == ["runs in float", "float island"]


def test_a_fused_float_layer_is_none() -> None:
    """An activation that the runtime computes within a layer on integers costs no conversion."""
    layers = (layer("a"), layer("gelu", "Relu", precision="float32", fused_into="a"), layer("norm"), layer("b"))
    assert float_islands(layers, LINKS) == ()


def test_islands_of_one_kind_are_one_finding() -> None:
    """With the bytes of all of them."""
    layers = [layer("a0")]
    links = [link(None, "a0")]
    for index in range(3):
        layers += [layer(f"g{index}", "Gelu", precision="float32"), layer(f"a{index + 1}")]
        links += [link(f"a{index}", f"g{index}"), link(f"g{index}", f"a{index + 1}")]
    found = float_islands(layers, links)
    (finding,) = inspection_findings(layers, found)
    assert len(found) == 3
    assert "Gelu in float between integer layers in 3 places" in finding.message
    assert "3,000 bytes" in finding.message
    assert finding.layers == ("g0", "g1", "g2")


def test_a_file_in_float_has_nothing_left_in_float() -> None:
    """And float layers at the ends of a quantized one are no islands; what only moves numbers is not told."""
    plain = (layer("a", precision="float32"), layer("b", precision="float32"))
    assert inspection_findings(plain, float_islands(plain, (link("a", "b", pair=False),))) == ()
    ends = (layer("stem", precision="float32"), layer("a"), layer("flat", "Reshape", precision="float32"))
    found = float_islands(ends, (link("stem", "a"), link("a", "flat")))
    assert found == ()
    assert [(finding.kind, finding.layers) for finding in inspection_findings(ends, found)] == [
        ("left in float", ("stem",))
    ]


def test_scales_of_nothing_are_told() -> None:
    """Zero, not finite or too small to have a step."""
    weights = Weights(tensor="w", dtype="int8", bits=8, shape=(4,), size_bytes=4, quantizer=quantizer("w", scale=0.0))
    layers = (
        layer("a", weights=weights),
        layer("b", makes=quantizer("b", scale=float("inf"))),
        layer("c", reads=(quantizer("image", scale=1e-40),)),
        layer("d", reads=(Quantizer(tensor="x", dtype="uint8", bits=8, scales=1),)),
    )
    (finding,) = inspection_findings(layers, ())
    assert (finding.kind, finding.layers) == ("zero scale", ("a", "b", "c"))
    assert "w, b, image" in finding.message


def test_what_was_seen_is_told() -> None:
    """Biases at their end, outputs beyond their range, channels that never change."""
    layers = (
        layer("a", saturated_bias=True, clipped=0.001),
        layer("b", clipped=0.2, channels=8, dead_channels=2, lost_channels=1),
        layer("c", clipped=0.02, channels=8, dead_channels=3, lost_channels=0),
    )
    told = {finding.kind: finding for finding in inspection_findings(layers, ())}
    assert told["saturated"].layers == ("a",)
    assert told["clipped"].layers == ("b", "c")
    assert "most in b: 20.0 %" in told["clipped"].message
    assert told["dead channels"].layers == ("c", "b")
    assert "5 of 16 channels never change on these inputs; 1 of them change in the float file" in (
        told["dead channels"].message
    )

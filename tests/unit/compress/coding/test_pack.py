"""Files in, one file, the same files out; and everything that is wrong with one refused in words."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.coding import pieces, unpack
from pipeline.compress.coding.pack import pack_files
from pipeline.compress.coding.writing import deflated, varint_bytes

if TYPE_CHECKING:
    from pathlib import Path

SEEDED = np.random.default_rng(0)


def quantized_network() -> bytes:
    """Return an ONNX file with an int8 layer at 10 % density, scales, a bias, and what other tensors there are."""
    weights = np.where(SEEDED.random((64, 128)) < 0.1, SEEDED.integers(-90, 90, (64, 128)), 0).astype(np.int8)
    scales = SEEDED.random(64).astype(np.float32)
    tensors = [
        numpy_helper.from_array(weights, "weights"),
        helper.make_tensor("scales", TensorProto.FLOAT, [64], scales.tolist()),
        numpy_helper.from_array((scales * np.float32(0.37)).astype(np.float32), "bias_scales"),
        numpy_helper.from_array(SEEDED.normal(size=64).astype(np.float32), "bias"),
        numpy_helper.from_array(np.zeros(64, np.int8), "zero_points"),
        numpy_helper.from_array(weights, "weights_again"),
        helper.make_tensor("names", TensorProto.STRING, [2], [b"one", b"two"]),
    ]
    nodes = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(40), "c"))]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString()


NETWORK = quantized_network()
PACKED = pack_files({"model.onnx": NETWORK}, {"model.onnx": pieces.onnx_places(NETWORK)[0]})


def test_the_same_bytes_come_out() -> None:
    """Of a network with all kinds of tensors, in a third of its bytes."""
    assert unpack.unpack_files(PACKED.content) == {"model.onnx": NETWORK}
    assert len(PACKED.content) < len(NETWORK) / 5
    assert sum(PACKED.parts.values()) == len(PACKED.content)
    assert min(PACKED.parts.values()) >= 0


def test_every_tensor_is_found() -> None:
    """Elements in raw bytes and in fields of their own, of initializers and constants, each in a code that suits it."""
    found = {tensor.name: tensor for tensor in PACKED.tensors}
    assert set(found) == {"weights", "scales", "bias_scales", "bias", "zero_points", "weights_again", "c"}
    assert found["weights"].code == "range"
    assert found["weights"].nonzero == pytest.approx(0.1, abs=0.01)
    assert found["weights"].packed < 1.15 * found["weights"].bound
    # The scales of biases are scales times a number, the second layer is the first: a few bytes each.
    assert found["bias_scales"].packed < 10
    assert found["weights_again"].packed < 10


def test_several_files_and_none_known() -> None:
    """Bytes of any kind: without tensors, in several files, and empty ones."""
    files = {"a.xml": b"<net/>" * 99, "a.bin": SEEDED.bytes(1000), "empty": b""}
    assert unpack.unpack_files(pack_files(files, {}).content) == files


def test_places_that_cannot_be() -> None:
    """Tensors behind the end, over one another, or of broken elements are left in the rest."""
    content = SEEDED.bytes(400)
    wrong = [(0, 100), (50, 100), (101, 30), (300, 101), (396, 100), (2**40, 64)]
    places = [pieces.TensorPlace(start, size, "", 2, is_float=True) for start, size in wrong]
    assert [place.start for place in pieces.usable_places(places, 400)] == [0]
    assert unpack.unpack_files(pack_files({"x": content}, {"x": places}).content) == {"x": content}


def test_names_without_folders_alone() -> None:
    """A name that leads elsewhere is refused by both sides."""
    for name in ("../x", "a/b", "a\\b", "..", "", " ", "c:x", "a\nb"):
        with pytest.raises(ValueError, match="names the file"):
            pack_files({name: b"1"}, {})
        with pytest.raises(unpack.Damaged, match="names the file"):
            unpack.check_name(name)


def test_cut_anywhere() -> None:
    """One message for each length."""
    for length in [*range(60), *range(60, len(PACKED.content), 97), len(PACKED.content) - 1]:
        with pytest.raises(unpack.Damaged, match=r"is cut|not a packed"):
            unpack.unpack_files(PACKED.content[:length])


def test_changed_anywhere() -> None:
    """Every byte counts: the checksum covers all of them."""
    for place in range(8, len(PACKED.content), 41):
        changed = bytearray(PACKED.content)
        changed[place] ^= 4
        with pytest.raises(unpack.Damaged):
            unpack.unpack_files(bytes(changed))


@pytest.mark.parametrize("seed", range(150))
def test_changed_with_a_right_checksum(seed: int) -> None:
    """Who repairs the checksum does not get past the digest, and no error is anything but Damaged."""
    seeded = random.Random(seed)  # noqa: S311 - so that a failure can be tried again
    changed = bytearray(PACKED.content)
    for _ in range(seeded.randint(1, 3)):
        changed[seeded.randrange(12, len(changed))] = seeded.randrange(256)
    changed[8:12] = zlib.crc32(bytes(changed[12:])).to_bytes(4, "little")
    if bytes(changed) != PACKED.content:
        with pytest.raises(unpack.Damaged):
            unpack.unpack_files(bytes(changed))


def changed_section(**sections: bytes) -> bytes:
    """Return the packed network with other sections, header and checksum being right."""
    found = unpack.read_sections(PACKED.content)._replace(**sections)
    parts = (found.rest, found.plan, found.payload, found.lanes)
    (file,) = found.files
    body = varint_bytes(1, len(file.name)) + file.name.encode() + varint_bytes(file.size) + file.digest
    body += varint_bytes(*map(len, parts)) + b"".join(parts)
    return PACKED.content[:8] + zlib.crc32(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("seed", range(150))
def test_changed_plan(seed: int) -> None:
    """Any numbers in the plan, which says what is read and how: refused in words, and quickly."""
    seeded = random.Random(seed)  # noqa: S311 - so that a failure can be tried again
    plan = bytearray(unpack.inflated(unpack.read_sections(PACKED.content).plan, 1 << 20))
    for _ in range(seeded.randint(1, 3)):
        plan[seeded.randrange(len(plan))] = seeded.choice([0, 1, 2, 5, 7, 9, 127, seeded.randrange(256)])
    if bytes(plan) != unpack.inflated(unpack.read_sections(PACKED.content).plan, 1 << 20):
        with pytest.raises(unpack.Damaged):
            unpack.unpack_files(changed_section(plan=deflated(bytes(plan))))


def test_other_sections() -> None:
    """Empty, too long, and of bytes that mean nothing."""
    assert unpack.unpack_files(changed_section()) == {"model.onnx": NETWORK}
    found = unpack.read_sections(PACKED.content)
    for name in ("rest", "plan", "payload", "lanes"):
        for content in (b"", b"\0", b"\xff" * 99, getattr(found, name) + b"\0", getattr(found, name)[:-2]):
            with pytest.raises(unpack.Damaged):
                unpack.unpack_files(changed_section(**{name: content}))


def test_a_header_that_claims_too_much() -> None:
    """Before memory is taken: a file of a few bytes cannot hold gigabytes."""
    body = varint_bytes(1, 1) + b"x" + varint_bytes(3 << 30) + bytes(32) + varint_bytes(1, 1, 0, 0) + b"\0\0"
    content = unpack.MAGIC + b"\1" + zlib.crc32(body).to_bytes(4, "little") + body
    with pytest.raises(unpack.Damaged, match="claims to hold 3,221,225,472 bytes, allowed for its size: 17,"):
        unpack.unpack_files(content)


def test_other_formats() -> None:
    """What is no packed file, and what is one of a later version."""
    with pytest.raises(unpack.Damaged, match="not a packed network"):
        unpack.unpack_files(NETWORK)
    with pytest.raises(unpack.Damaged, match="of format 2, this program reads 1"):
        unpack.unpack_files(PACKED.content[:7] + b"\2" + PACKED.content[8:])


def test_as_a_program(tmp_path: Path) -> None:
    """It runs alone, isolated; it never replaces another file; and damage is one line and exit code 2."""
    packed = tmp_path / "x.packed"
    packed.write_bytes(PACKED.content)
    command = [sys.executable, "-I", unpack.__file__, str(packed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (tmp_path / "model.onnx").read_bytes() == NETWORK
    assert f"{len(NETWORK):,} bytes" in done.stdout
    (tmp_path / "model.onnx").write_bytes(b"mine")
    for content, said in (
        (PACKED.content, "is there already, and is something else"),
        (PACKED.content[:-9], "it is cut"),
    ):
        packed.write_bytes(content)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    """Killed within the second file, it leaves neither under its name; the next run writes both and cleans up."""
    files = {"a.bin": bytes(100), "model.onnx": NETWORK}
    packed = tmp_path / "x.packed"
    packed.write_bytes(pack_files(files, {}).content)
    command = [unpack.__file__, str(packed), "--out", str(tmp_path / "new")]
    killed = subprocess.run([sys.executable, "-c", LIMITED, *command], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr
    assert all(path.name.endswith(unpack.PARTIAL) for path in (tmp_path / "new").iterdir())
    subprocess.run([sys.executable, "-I", *command], check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == files


def test_none_is_written_where_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file has the second name, or the disk is full at the second: the first is not there either."""
    files = {"a.bin": b"a", "b.bin": b"b"}
    (tmp_path / "b.bin").mkdir()
    with pytest.raises(unpack.Damaged, match=r"b\.bin is there already, and is something else"):
        unpack.write_files(files, tmp_path)
    (tmp_path / "b.bin").rmdir()
    with monkeypatch.context() as patch:
        full = iter([0, 1])
        patch.setattr(unpack.os, "fsync", lambda _: 1 / (1 - next(full)))
        with pytest.raises(ZeroDivisionError):
            unpack.write_files(files, tmp_path)
    assert list(tmp_path.iterdir()) == []
    places = unpack.write_files(files, tmp_path)
    assert unpack.write_files(files, tmp_path) == places == [tmp_path / "a.bin", tmp_path / "b.bin"]


def test_ir_places() -> None:
    """Constants by offset and size in the XML; what has neither is passed over."""
    xml = b"""<net><data shape="1" element_type="f32"/><data element_type="i8" shape="4, 8" offset="64" size="32" />
    <data element_type="f16" offset="96" size="64"/><data element_type="string" offset="0" size="9"/></net>"""
    found = pieces.ir_places(xml)
    assert [(each.start, each.size, each.kind, each.is_float) for each in found] == [
        (64, 32, 4, False),
        (96, 64, 1, True),
    ]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 30, b"no protobuf at all", NETWORK[:-5], b"\x3a\xff\xff\xff\x7f", bytes(1 << 26)]
)
def test_what_is_no_onnx_file(content: bytes) -> None:
    """Said in words."""
    with pytest.raises(pieces.NotReadableError):
        pieces.onnx_places(content)


def test_tensors_in_other_files() -> None:
    """Location, offset and length are those that the file says."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "16"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    content = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    ((outside,), inside) = reversed(pieces.onnx_places(content))
    assert not inside
    assert (outside.location, outside.offset, outside.size, outside.place.name) == ("w.bin", 16, 64, "w")
    assert onnx.load_from_string(content).graph.initializer[0].name == "w"

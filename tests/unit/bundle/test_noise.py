"""Whatever stands in a bundle's files: it is refused in words, or it is right. No other error comes out."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundle.archive import unpack
from pipeline.bundle.on_device.self_test import Failed, check_inside, notes, read_expected
from pipeline.bundle.on_device.verify import Rejected, Verification, read_manifest, strict_json
from tests.unit.bundle.small_content import network

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SCALARS = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
SLOWLY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return where in a JSON value something stands."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


def replaced(value: Any, at: tuple[str | int, ...], new: object) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a JSON value with something else at one place."""
    if not at:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return copy


@SLOWLY
@given(data=st.data())
def test_manifest(made: Path, data: st.DataObject) -> None:
    """Another value at any place of manifest.json; notes are made of what is accepted."""
    manifest = json.loads((made / "bundle" / "manifest.json").read_text())
    place = data.draw(st.sampled_from([place for place in places(manifest) if place[:1] != ("lineage",)]))
    changed = replaced(manifest, place, data.draw(VALUES))
    with suppress(Rejected):
        read = read_manifest(json.dumps(changed).encode())
        notes(read, Verification(runtime="onnxruntime", machine={"architecture": "", "cpu_model": "", "flags": []}))


@SLOWLY
@given(data=st.data())
def test_expected_outputs(made: Path, data: st.DataObject) -> None:
    """Another value at any place of expected.json."""
    manifest = json.loads((made / "bundle" / "manifest.json").read_text())
    expected = json.loads((made / "bundle" / "samples" / "expected.json").read_text())
    place = data.draw(st.sampled_from(places(expected)))
    changed = json.dumps(replaced(expected, place, data.draw(VALUES))).encode()
    with suppress(Rejected, Failed):
        read_expected(strict_json(changed, "expected.json"), manifest, "onnxruntime")


@SLOWLY
@given(content=st.binary(max_size=200))
def test_bytes_for_json(content: bytes) -> None:
    """Any bytes in the place of JSON."""
    with suppress(Rejected):
        read_manifest(content)


@SLOWLY
@given(data=st.data())
def test_bytes_in_an_archive(made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Some bytes of the unpacked archive are others; nothing else than its own files is ever written."""
    content = bytearray(gzip.decompress((made / "bundle.tar.gz").read_bytes()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("noise")
    (folder / "bundle.tar.gz").write_bytes(gzip.compress(bytes(content), 1))
    (folder / "to").mkdir()
    with suppress(Rejected):
        unpack(folder / "bundle.tar.gz", folder / "to")
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.tar.gz", "to"]


@SLOWLY
@given(data=st.data())
def test_bytes_in_a_compressed_archive(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Some bytes of the compressed archive are others, or it ends early."""
    content = bytearray((made / "bundle.tar.gz").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("noise")
    (folder / "bundle.tar.gz").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    (folder / "to").mkdir()
    with suppress(Rejected):
        unpack(folder / "bundle.tar.gz", folder / "to")


@SLOWLY
@given(data=st.data())
def test_bytes_in_a_network(data: st.DataObject) -> None:
    """Some bytes of an ONNX file are others."""
    content = bytearray(network(1, 1).SerializeToString())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Failed):
        check_inside(bytes(content), "model/model.onnx")


def test_the_untouched_ones_are_right(made: Path, tmp_path: Path) -> None:
    """The same calls take what was not changed."""
    manifest = read_manifest((made / "bundle" / "manifest.json").read_bytes())
    expected = strict_json((made / "bundle" / "samples" / "expected.json").read_bytes(), "expected.json")
    outputs, tolerance = read_expected(expected, manifest, "onnxruntime")
    assert (len(outputs), tolerance > 0) == (4, True)
    unpack(made / "bundle.tar.gz", tmp_path)
    assert (tmp_path / "manifest.json").is_file()

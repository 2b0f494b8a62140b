"""A store that was changed from outside is refused, and the message names the place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.latency.baselines import Baseline, BaselineStore, terms_of
from pipeline.measure.model_files import model_files
from tests.unit.latency.gate_fixtures import Prepared

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    """Return a store with one baseline."""
    network = tmp_path / "a.onnx"
    network.write_text("network")
    source = model_files(network, "onnxruntime")
    terms = terms_of(Prepared({}).measurement(network, network), None)
    baseline = Baseline(
        model="a", digest=source.digest, files=source.sha256, created="2026-01-01", reason="first", terms=terms
    )
    found = BaselineStore(tmp_path / "store")
    found.accept(baseline, source)
    return found


def test_what_was_accepted_is_read_again(store: BaselineStore) -> None:
    """File, reason and terms come back."""
    found = store.baselines()["a"]
    assert store.file(found).read_text() == "network"
    assert (found.reason, found.terms.threads) == ("first", 1)
    assert store.reference("a") == found


def test_a_changed_file_is_refused(store: BaselineStore) -> None:
    """Its hash is another."""
    store.file(store.baselines()["a"]).write_text("another")
    with pytest.raises(InputError, match=r"a\.onnx was changed since it was accepted"):
        store.file(store.baselines()["a"])


def test_a_missing_file_is_refused(store: BaselineStore) -> None:
    """So is a link in its place."""
    path = store.file(store.baselines()["a"])
    path.rename(path.with_name("moved"))
    with pytest.raises(InputError, match="is missing"):
        store.file(store.baselines()["a"])
    path.symlink_to(path.with_name("moved"))
    with pytest.raises(InputError, match="is missing"):
        store.file(store.baselines()["a"])


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", ".hidden", "a b"])
def test_a_name_that_leads_elsewhere_is_refused(store: BaselineStore, name: str) -> None:
    """Names of files are plain."""
    baseline = store.baselines()["a"].model_copy(update={"files": {name: "0" * 64}})
    with pytest.raises(InputError, match="refused"):
        store.file(baseline)


@pytest.mark.parametrize("line", ['{"schema_version": 1, "mod', "no json", '{"schema_version": 2}', "[]"])
def test_a_damaged_line_is_named(store: BaselineStore, line: str) -> None:
    """A write that was cut off leaves half a line: its number is told."""
    with (store.folder / "baselines.jsonl").open("a") as stream:
        stream.write(line)
    with pytest.raises(InputError, match=r"baselines\.jsonl:2 is damaged .*remove that line"):
        store.baselines()


def test_a_digest_cannot_be_a_path(store: BaselineStore) -> None:
    """It is a folder's name."""
    path = store.folder / "baselines.jsonl"
    content = {**json.loads(path.read_text()), "digest": "../elsewhere"}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="digest"):
        store.baselines()


def test_the_last_line_of_a_model_counts(store: BaselineStore, tmp_path: Path) -> None:
    """The reference stays the first."""
    newer = tmp_path / "b.onnx"
    newer.write_text("newer")
    source = model_files(newer, "onnxruntime")
    first = store.baselines()["a"]
    changed = {"digest": source.digest, "files": source.sha256, "reason": "newer"}
    store.accept(first.model_copy(update=changed), source)
    assert store.baselines()["a"].reason == "newer"
    assert store.reference("a") == first

"""Every problem of a latency.toml has its line, what was found and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.latency.gate_config import gated_models, read_config

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
margin = "2%"
budget = "10s"
tolerance = "any"

[[model]]
name = "first"
file = "build/first.onnx"

[[model]]
name = "second"
file = "second.onnx"
margin = 0.05
threads = 4
tolerance = "20%"
duty = "30ms"
"""


def write(folder: Path, text: str) -> Path:
    """Write a configuration."""
    path = folder / "latency.toml"
    path.write_text(text)
    return path


def test_a_model_overrides_the_top(tmp_path: Path) -> None:
    """What neither says has its default."""
    first, second = gated_models(read_config(write(tmp_path, GOOD)), tmp_path)
    assert first.file == tmp_path / "build" / "first.onnx"
    assert (first.question.margin, first.question.tolerance, first.question.terms.threads) == (0.02, None, 1)
    assert (second.question.margin, second.question.tolerance, second.question.terms.threads) == (0.05, 0.2, 4)
    assert (second.question.terms.pause_ns, second.question.budget_s) == (30_000_000, 10.0)
    assert (first.question.runtime, first.device) == ("onnxruntime", "local")


def test_instructions_have_a_margin_of_their_own(tmp_path: Path) -> None:
    """One percent, unless another is given."""
    text = 'metric = "instructions"\n[[model]]\nname = "a"\nfile = "a.onnx"\n'
    (only,) = gated_models(read_config(write(tmp_path, text)), tmp_path)
    assert only.question.margin == 0.01


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('margin = "2%"', 'margni = "2%"'), r":1 margni: found no such key, .*did you mean margin\?"),
        (('margin = "2%"', 'margin = "fast"'), r':1 margin: found "fast", allowed: a share such as 3% or 0\.03'),
        (('budget = "10s"', "budget = 10"), r":2 budget: found 10, allowed: a positive time"),
        (("threads = 4", "threads = 0"), r":13 model\.1\.threads: found 0: input should be greater"),
        (("threads = 4", 'threds = "4"'), r":13 model\.1\.threds: found no such key, .*did you mean threads\?"),
        (('file = "second.onnx"\n', ""), r":9 model\.1\.file: missing"),
        (('name = "second"', 'name = "first"'), r':10 model\.1\.name: found "first" a second time'),
        (('name = "second"', 'name = "../second"'), r":10 model\.1\.name: found '\.\./second'"),
        (('tolerance = "20%"', 'tolerance = "some"'), r":14 model\.1\.tolerance"),
        (("threads = 4", 'device = "nowhere"'), r":13 model\.1\.device: no device is registered as"),
        (("threads = 4", 'runtime = "tflite"'), r":13 model\.1\.runtime: found 'tflite'"),
    ],
)
def test_problem_is_found_with_its_line(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """File, line, key, what was found and what is allowed."""
    with pytest.raises(InputError, match=expected) as caught:
        read_config(write(tmp_path, GOOD.replace(*change)))
    assert str(tmp_path / "latency.toml") in str(caught.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """In order of their lines."""
    with pytest.raises(InputError) as caught:
        read_config(write(tmp_path, GOOD.replace("threads = 4", "threads = 0").replace('"2%"', '"x"')))
    assert [line.split()[0].rsplit(":", 1)[1] for line in str(caught.value).splitlines()] == ["1", "13"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("margin = ", "is not TOML: Invalid value"),
        ("", r"model: missing, expected \[\[model\]\] tables"),
        ("model = []", "model: found"),
        ("model = 3", "model: found 3"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """TOML's own words, or what is missing."""
    with pytest.raises(InputError, match=expected):
        read_config(write(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """So is one that is no text."""
    with pytest.raises(InputError, match="does not exist"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "binary.toml")

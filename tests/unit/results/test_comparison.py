"""The result of a comparison as a file: its schema is published, and what is no result is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.results.comparison import Comparison, load_comparison, schema

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "pipeline" / "latency" / "comparison.schema.json"


def test_published_schema_is_up_to_date() -> None:
    """The file that ships is what the command prints; `make schema` writes it anew."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "schema", "latency"], capture_output=True, text=True, check=True
    )
    assert done.stdout == PUBLISHED.read_text(encoding="utf-8")
    assert json.loads(done.stdout) == schema()


def test_unknown_schema_names_those_there_are() -> None:
    """A name that is no schema's ends with the exit code of bad input and the names that are."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "schema", "laten"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'laten', allowed: recipe, latency" in done.stderr


def test_schema_names_every_field_and_every_verdict() -> None:
    """All fields are described and always written; verdicts, metrics and reasons are closed lists."""
    described = schema()
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(described["properties"]) == set(Comparison.model_fields)
    assert set(described["required"]) == set(Comparison.model_fields)
    assert described["properties"]["verdict"]["enum"] == ["PASS", "FAIL", "INCONCLUSIVE", "INCOMPARABLE"]
    assert described["properties"]["schema_version"]["const"] == 1
    assert {"Side", "Spread", "Interval", "Reason", "Protocol", "Noise", "Conditions"} <= set(described["$defs"])
    assert all("description" in part for part in described["$defs"].values())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist; expected a comparison.json"),
        ({"schema_version": 2}, "schema_version Input.*of schema version 1"),
        ({"verdict": "MAYBE"}, "tool_version Field.*of schema version 1"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: dict[str, Any] | None, expected: str) -> None:
    """The message names the file and says what to do."""
    file = tmp_path / "comparison.json"
    if content is not None:
        file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected) as caught:
        load_comparison(file)
    assert str(file) in str(caught.value)

"""Which exported file an argument of `secateur inspect` stands for, if any. Loads no heavy library."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.runtimes import FORMS, exported_forms, form_of


def exported_file(given: str) -> Path | None:
    """Return the file for an .onnx or .xml, or for a folder that holds a model of that name; None for anything else.

    Whether the file is there and can be read is not looked at.
    """
    path = Path(given)
    if form_of(path) and not path.is_dir():
        return path
    return next((path / name for name in main_files() if (path / name).is_file()), None)


def main_files() -> tuple[str, ...]:
    """Return the name of the file that a runtime loads, of each exported form."""
    return tuple(FORMS[form].main for form in exported_forms())

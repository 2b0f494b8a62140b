"""Which exported file an argument of `secateur inspect` stands for, if any. Loads no heavy library."""

from __future__ import annotations

from pathlib import Path

#: Files of each form, the first one the file that a runtime loads.
FILES = ("model.onnx", "model.xml")
SUFFIXES = frozenset({".onnx", ".xml"})


def exported_file(given: str) -> Path | None:
    """Return the file for an .onnx or .xml, or for a folder that holds a model of that name; None for anything else.

    Whether the file is there and can be read is not looked at.
    """
    path = Path(given)
    if path.suffix in SUFFIXES and not path.is_dir():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), None)

"""JSON as every file of a bundle has it: sorted keys, one space of indentation, a newline at the end."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Return the text of a value; floats are written so that they are read back as they were."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

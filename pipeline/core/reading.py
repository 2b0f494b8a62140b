"""Files that may be damaged, or something else than they are called: read as what they should be, or refused in words.

A pipe would be waited for and a device read without end, so that what is no file is never opened.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.core.errors import InputError
from pipeline.core.paths import kind_of

if TYPE_CHECKING:
    from pathlib import Path

#: No description of anything is longer.
_MOST_BYTES = 512 << 20
_MISSING = "does not exist"
Model = TypeVar("Model", bound=BaseModel)


def read_bytes(path: Path, expected: str) -> bytes:
    """Return the content of a file; `expected` says in words what it should be.

    Raises:
        InputError: it does not exist, is a folder, a pipe or a device, is too long, or cannot be read.
    """
    kind = kind_of(path)
    if kind != "a file":
        raise InputError(f"{path} {f'is {kind}' if kind else _MISSING}; expected {expected}")
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; expected {expected}") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path} has more than {_MOST_BYTES >> 20} MiB; expected {expected}")
    return content


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: as for `read_bytes`, or it is no JSON object in UTF-8; with the line where that is known.
    """
    content = read_bytes(path, expected)
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno} is damaged: no JSON: {error.msg}; expected {expected}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line} is damaged: no text in UTF-8; expected {expected}") from error
    except (RecursionError, ValueError) as error:  # nested without end, a number of thousands of digits
        raise InputError(f"{path} is damaged: {error}; expected {expected}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: found {type(found).__name__} at the top; expected {expected}")
    return found


def read_value(path: Path, kind: type[Model], expected: str) -> Model:
    """Return the value that a file holds as JSON.

    Raises:
        InputError: as for `read_bytes`, or a key is missing, unknown, or has another value than it may have.
    """
    try:
        return kind.model_validate_json(read_bytes(path, expected))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        found = " ".join(part for part in (where, first["msg"]) if part)
        raise InputError(f"{path} is damaged or from another version: {found}; expected {expected}") from error

"""Networks of installed packages by name: a recipe writes `definition: timm:resnet50` in place of a path.

The name stands for a definition that comes with Secateur, such as `models/timm/model.py`, whose `build` takes it as its
argument `name`. From there on nothing is special: the file is copied into the artifact, and arguments and weights are
those of any other definition. No package is imported here: whether it has that network is known when it is built.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from pipeline.core.code_inputs import NETWORK_FILE
from pipeline.core.paths import bundled_root, existing_file, kind_of, resolve_path

#: Packages whose networks have names.
LIBRARIES = ("timm", "torchvision", "transformers")
ALLOWED = ", ".join(f"{library}:NAME" for library in LIBRARIES)
#: The argument of a library's definition that says which of its networks is meant.
ARGUMENT = "name"


def split_reference(definition: object) -> tuple[str, str] | None:
    """Return package and name of a text such as `timm:resnet50`, or None for anything else, such as a path."""
    library, colon, name = str(definition).partition(":")
    return (library, name) if colon and name and library in LIBRARIES else None


def definition_of(library: str) -> Path:
    """Return the definition that builds a package's networks by name.

    Raises ValueError, in the words of a recipe's problem, when the package is not installed.
    """
    if find_spec(library) is None:
        raise ValueError(f"the package {library} is not installed: pip install {library}")
    return bundled_root() / "models" / library / "model.py"


def libraries_of(definition: Path) -> tuple[str, ...]:
    """Return the packages that a definition gets its networks from: one where a name was written, else none."""
    return tuple(name for name in LIBRARIES if definition == bundled_root() / "models" / name / "model.py")


def with_name(data: object) -> object:
    """Return a model's mapping with the name in `definition` as an argument too; anything else stays as it is.

    Raises ValueError when the arguments have a name as well.
    """
    found = split_reference(data.get("definition")) if isinstance(data, dict) else None
    if not isinstance(data, dict) or found is None:
        return data
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        return data
    if ARGUMENT in arguments:
        raise ValueError(f"found {':'.join(found)} and an argument {ARGUMENT}, allowed: one of them")
    return {**data, "arguments": {**arguments, ARGUMENT: found[1]}}


def _definition(path: Path, info: ValidationInfo) -> Path:
    found = split_reference(path)
    if found is None:
        stored = resolve_path(path, info.context["folder"]) / NETWORK_FILE if info.context else path
        if kind_of(stored) == "a file":
            return stored
        alternative = f", or {ALLOWED}" if ":" in str(path) else ""
        return existing_file(path, info, alternative)
    try:
        return definition_of(found[0])
    except ValueError as error:
        raise ValueError(f'found "{path}", but {error}') from error


#: A Python file, the folder of a stored network (its network.json), or a network of an installed package; its class
#: needs `with_name` as a validator before.
DefinitionFile = Annotated[Path, AfterValidator(_definition)]

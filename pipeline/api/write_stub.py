"""Prints `stages.pyi`: the functions of `stages` with their keys and the types that a recipe's JSON Schema gives these.

Nested settings are mappings there; what they hold is checked when the recipe is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipeline.api.values import STAGE_FUNCTIONS
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.stage import Stage

_HEAD = '''"""The keys of each stage for editors and type checkers. Written by `make schema`: do not edit."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

__all__ = [{names}]
'''
_PLAIN = {"string": "str", "number": "float", "integer": "int", "boolean": "bool", "null": "None"}


def stub() -> str:
    """Return the text of the stub."""
    head = _HEAD.format(names=", ".join(f'"{name}"' for name in STAGE_FUNCTIONS))
    return "\n\n".join([head, *(_function(model) for model in STAGES.values())]) + "\n"


def _function(model: type[Stage]) -> str:
    schema = model.model_json_schema()
    required = schema.get("required", ())
    lines = [f"def {model.__name__}(", "    *,"]
    for name, of in schema["properties"].items():
        if name != "kind":
            lines.append(f"    {name}: {_type(of)}{'' if name in required else ' = ...'},")
    text = (STAGE_FUNCTIONS[model.__name__].__doc__ or "").replace("\n\n", "\n\n    ")
    return "\n".join([*lines, ") -> dict[str, Any]:", f'    """{text}\n    """'])


def _type(of: Mapping[str, Any]) -> str:
    """Write what JSON Schema allows as a type; a key that has a type of its own in it is any mapping."""
    if "enum" in of or "const" in of:
        return f"Literal[{', '.join(map(repr, of.get('enum', [of.get('const')])))}]"
    if "anyOf" in of:
        return " | ".join(dict.fromkeys(map(_type, of["anyOf"])))
    if of.get("type") == "array":
        return f"Sequence[{_type(of['items'])}]"
    if of.get("type") in _PLAIN:
        return _PLAIN[of["type"]]
    return "Mapping[str, Any]"


if __name__ == "__main__":
    sys.stdout.write(stub())

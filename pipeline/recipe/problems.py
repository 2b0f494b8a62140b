"""Says what is wrong with a recipe, in the recipe's terms: what was found, what is allowed, what was perhaps meant.

The keys allowed at a place are read from the recipe's JSON Schema, so there is no second list of them.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

    from pipeline.recipe.yaml import Place

#: pydantic's type of error -> what is allowed there; {names} are filled from the error's own context.
ALLOWED: Mapping[str, str] = {
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "model_attributes_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "none_required": "nothing (null)",
    "path_type": "text",
    "string_type": "text",
    "string_too_short": "text of {min_length} or more characters",
    "too_long": "a list of {max_length} or fewer",
    "too_short": "a list of {min_length} or more",
    "tuple_type": "a list",
}
#: What is no stage though one might think so -> what does it.
NO_STAGES: Mapping[str, str] = {"pack": "use {kind: bundle, storage: packed}, or the command secateur pack"}
SHOWN = 60  # characters of a value that is found


def shown_value(value: object) -> str:
    """Return a value as a message shows it: JSON, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def among(found: object, names: Iterable[str]) -> str:
    """Return the allowed names as text, with the one that was perhaps meant."""
    allowed = tuple(names)
    close = difflib.get_close_matches(str(found), allowed, n=1) if isinstance(found, str) else []
    suggestion = f"; did you mean {close[0]}?" if close and close[0] != found else ""
    return f"{', '.join(allowed)}{suggestion}"


def allowed_keys(schema: Mapping[str, Any], data: object, place: Place) -> tuple[str, ...] | None:
    """Return the keys that a mapping at `place` may have, or None where any key is allowed or none is known.

    Args:
        schema: JSON Schema of the whole recipe.
        data: plain values of the whole recipe; they say which kind of stage or source of data stands at a place.
        place: keys and list positions from the top.
    """
    node = _resolve(schema, *_node(schema, data, place))
    return tuple(node["properties"]) if "properties" in node else None


def _node(schema: Mapping[str, Any], data: object, place: Place) -> tuple[Mapping[str, Any], object]:
    """Return the part of the schema that describes `place`, as written there, and the value at `place`."""
    node: Mapping[str, Any] = schema
    for part in place:
        parent = _resolve(schema, node, data)
        node = parent.get("items", {}) if isinstance(part, int) else parent.get("properties", {}).get(part, {})
        data = child(data, part)
    return node, data


def child(data: object, part: str | int) -> object:
    """Return the value at a key or a position, or None if there is none."""
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _resolve(schema: Mapping[str, Any], node: Mapping[str, Any], data: object) -> Mapping[str, Any]:
    """Follow references, the discriminator that `data` gives, and the one alternative that has keys or entries."""
    if "$ref" in node:
        return _resolve(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], data)
    if "discriminator" in node:
        chooser = node["discriminator"]
        tag = data.get(chooser["propertyName"]) if isinstance(data, dict) else None
        reference = chooser["mapping"].get(tag) if isinstance(tag, str) else None
        return _resolve(schema, {"$ref": reference}, data) if reference else {}
    for alternative in node.get("anyOf", ()):
        found = _resolve(schema, alternative, data)
        if "properties" in found or "items" in found:
            return found
    return node


def _place_of(error: ErrorDetails, data: object) -> Place:
    """Return where an error is in the recipe: its location without the names of the alternatives of unions."""
    place: list[str | int] = []
    for position, part in enumerate(error["loc"]):
        last = position == len(error["loc"]) - 1
        here = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if here or (last and error["type"] == "missing"):
            place.append(part)
            data = child(data, part)
    if error["type"].startswith("union_tag"):
        place.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(place)


def problem_messages(errors: Iterable[ErrorDetails], schema: Mapping[str, Any], data: object) -> dict[Place, str]:
    """Return one message for each place; what the alternatives of a union allow is joined with `or`."""
    found: dict[Place, str] = {}
    allowed: dict[Place, list[str]] = {}
    for error in errors:
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts valid entries alone; the invalid ones are named one by one
        place = _place_of(error, data)
        found_here, allowed_here = _found_and_allowed(error, place, schema, data)
        found.setdefault(place, found_here)
        alternatives = allowed.setdefault(place, [])
        if allowed_here and allowed_here not in alternatives:
            alternatives.append(allowed_here)
    return {
        place: f"{said}, allowed: {', or '.join(allowed[place])}" if allowed[place] else said
        for place, said in found.items()
    }


def _found_and_allowed(error: ErrorDetails, place: Place, schema: Mapping[str, Any], data: object) -> tuple[str, str]:
    """Return what was found and what is allowed instead, in words; the latter is empty where the former says both."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing" | "extra_forbidden" | "union_tag_not_found":
            return _about_key(error["type"], place, schema, data)
        case "union_tag_invalid":
            tag = child(error["input"], place[-1])
            if place[:1] == ("stages",) and (instead := NO_STAGES.get(str(tag))):
                return f"found {shown_value(tag)}, which is no stage: {instead}", ""
            return f"found {shown_value(tag)}", among(tag, _names(context["expected_tags"]))
        case "literal_error":
            return f"found {shown_value(error['input'])}", among(error["input"], _names(context["expected"]))
        case "value_error":
            return str(context["error"]), ""
    known = ALLOWED.get(error["type"])
    return f"found {shown_value(error['input'])}", known.format(**context) if known else error["msg"]


def _about_key(kind: str, place: Place, schema: Mapping[str, Any], data: object) -> tuple[str, str]:
    if kind == "extra_forbidden":
        return "found an unknown key", among(place[-1], allowed_keys(schema, data, place[:-1]) or ())
    if kind == "union_tag_not_found":
        node, _ = _node(schema, data, place[:-1])
        return "found nothing", among(None, node["discriminator"]["mapping"])
    node, value = _node(schema, data, place)
    words = str({**_resolve(schema, node, value), **node}.get("description", "")).rstrip(".")
    return f"found nothing, required: {words}" if words else "found nothing, but it is required", ""


def _names(listed: str) -> list[str]:
    """Return the names in a text such as `'a', 'b' or 'c'`."""
    return [name.strip("'") for name in listed.replace(" or ", ", ").split(", ")]

"""Applies `--set stages.0.ratio=0.4` to the plain values of a recipe, before they are validated."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import Problem, RecipeError
from pipeline.recipe.problems import allowed_keys, among, child, shown_value
from pipeline.recipe.yaml import MAX_DEPTH, dotted_place, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.recipe.yaml import Place


#: Digits of a position in a list: more is none.
MOST_DIGITS = 9


class OverrideError(ValueError):
    """An override names a place that a recipe does not have, or its value is not YAML."""


@dataclass
class Overridden:
    """Plain values after all overrides, the places that they touched, and those that could not be applied."""

    data: Any
    places: list[Place] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def touches(self, place: Place) -> bool:
        """Return whether an override set this place or something around it."""
        return any(place[: len(each)] == each for each in self.places)


def apply(data: Any, overrides: Sequence[str], schema: Mapping[str, Any]) -> Overridden:  # noqa: ANN401
    """Return the values of a recipe with every override applied in order.

    Args:
        data: plain values of a recipe; not changed.
        overrides: texts such as `stages.0.ratio=0.4` or, where one stage alone is of that kind,
            `stages.prune.ratio=0.4`. The value is a YAML scalar, `[list]` or `{mapping}`.
        schema: JSON Schema of a recipe; it names the keys that exist.
    """
    result = Overridden(copy.deepcopy(data))
    for override in overrides:
        try:
            key, value = _split(override)
            place = _place(key, result.data, schema)
            _put(result.data, place, value)
        except OverrideError as error:
            result.problems.append(Problem(f"--set {override}", str(error)))
        else:
            result.places.append(place)
    return result


def _split(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise OverrideError("found no key=value, allowed: a key and a value, such as stages.0.ratio=0.4")
    try:
        document = read_text(text, "--set")
    except RecipeError as error:
        raise OverrideError(error.problems[0].message) from None
    for problem in document.problems.values():
        raise OverrideError(problem.message)
    return key.strip().split("."), document.data


def _place(key: Sequence[str], data: object, schema: Mapping[str, Any]) -> Place:
    """Return the place that the parts of a key name; a stage that is named by its kind gets its position."""
    place: Place = ()
    whole = data
    if len(key) > MAX_DEPTH:
        raise OverrideError(f"found a key of {len(key)} parts, allowed: {MAX_DEPTH} at most")
    for part in key:
        if isinstance(data, list):
            step: str | int = _position(data, part, place)
        elif isinstance(data, dict) or data is None:
            step = part
            allowed = allowed_keys(schema, whole, place)
            if allowed is not None and part not in allowed:
                raise OverrideError(f"found no key {part} in {dotted_place(place)}, allowed: {among(part, allowed)}")
        else:
            raise OverrideError(
                f"found {shown_value(data)} at {dotted_place(place)}, allowed: a key of a mapping or a list"
            )
        place = (*place, step)
        data = child(data, step)
    return place


def _position(entries: list[Any], part: str, place: Place) -> int:
    """Return the position in a list that a number, or the kind of the only entry of that kind, names."""
    if part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(entries):
        return int(part)
    kinds = [str(child(entry, "kind")) for entry in entries]
    if kinds.count(part) == 1:
        return kinds.index(part)
    if part in kinds:
        positions = [index for index, kind in enumerate(kinds) if kind == part]
        named = " and ".join(map(str, positions))
        rows = " and ".join(str(index + 1) for index in positions)
        counted = f" (rows {rows} of the plan)" if place == ("stages",) else ""
        raise OverrideError(
            f"found {part} more than once in {dotted_place(place)}, allowed: its position, {named}{counted}"
        )
    named = ", ".join(f"{index} ({kind})" for index, kind in enumerate(kinds))
    raise OverrideError(
        f"found no entry {part} in {dotted_place(place)}, allowed: {named or 'none, the list is empty'}"
    )


def _put(data: Any, place: Place, value: object) -> None:  # noqa: ANN401
    *parents, last = place
    for step in parents:
        if isinstance(data, dict) and data.get(step) is None:
            data[step] = {}
        data = data[step]
    data[last] = value

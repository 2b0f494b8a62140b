# SPDX-License-Identifier: Apache-2.0
"""What a bundle's task makes of a sample and of outputs: preprocess.json, task/task.json, and the code in task/.

That code needs Python and numpy alone: a kind's own file, or the file of whoever made the task.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..infer import Rejected, normalise, reason
from .answers import prediction_text
from .inputs import IMAGE_AXES, check_input, check_names, raw_images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

FOLDER, FACTS = "task", "task/task.json"
#: How the kinds' own files are called while they are loaded.
PACKAGE = "bundle_task"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Under this name a sample has its raw value where that is no dict.
RAW = "raw"


def load_facts(folder: Path) -> dict[str, Any]:
    """Return what preprocess.json and task/task.json say: inputs, batch, runtime; kind, code, classes, outputs."""
    found: dict[str, Any] = {}
    for name in ("preprocess.json", FACTS):
        file = Path(folder) / name
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise Rejected(f"{file} cannot be read ({error}); expected the one of a whole bundle") from error
        if not isinstance(content, dict) or content.get("schema_version") != 1:
            raise Rejected(f"{file} is not of schema version 1; infer.py and {name} must be of one bundle")
        found.update(content)
    if wrong := [key for key, is_right in _RIGHT.items() if key not in found or not is_right(found[key])]:
        raise Rejected(f"preprocess.json and {FACTS}: {', '.join(wrong)} missing or malformed")
    return found


def _is_input(given: object) -> bool:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return False
    return _is_array(given) and ("raw" not in given or _is_array(given["raw"]))


def _is_array(given: object) -> bool:
    known = isinstance(given, dict) and isinstance(given.get("dtype"), str) and isinstance(given.get("shape"), list)
    return known and all(type(each) is int for each in given["shape"])  # type: ignore[index]


def _is_code(given: object) -> bool:
    if not isinstance(given, dict):
        return False
    texts, values = (["file"], "arguments") if "file" in given else (["module", "class"], "settings")
    return _are_texts([given.get(each) for each in texts]) and isinstance(given.get(values), dict)


def _is_image(given: object) -> bool:
    if given is None:
        return True
    known = isinstance(given, dict) and given.get("layout") in {"CHW", "HWC", "HW"}
    return known and given["colour"] in {"grey", "rgb"} and isinstance(given["name"], str)  # type: ignore[index]


def _are_texts(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(each, str) for each in given)


def _are_numbers(given: object) -> bool:
    return isinstance(given, list) and all(type(each) in {int, float} for each in given)


#: What has to be known, and what it looks like.
_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "inputs": lambda given: isinstance(given, list) and bool(given) and all(map(_is_input, given)),
    "outputs": lambda given: _are_texts(given) and bool(given),
    "batch": lambda given: type(given) is int and given > 0,
    "runtime": lambda given: isinstance(given, str),
    "code": _is_code,
    "classes": _are_texts,
    "made_by": lambda given: given in {"preprocess", "normalise", "nothing"},
    "image": _is_image,
    "mean": _are_numbers,
    "std": _are_numbers,
    "raw_is_dict": lambda given: isinstance(given, bool),
}


def raw_of(stored: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as it was given
    """Return a sample as the task's code is given it, from the arrays of its file; single values are no arrays."""
    values = {name: each.item() if each.ndim == 0 else each for name, each in stored.items()}
    if facts["raw_is_dict"]:
        return values
    if set(values) != {RAW}:
        raise Rejected(f"the sample has {', '.join(values) or 'nothing'}, expected an array called {RAW}")
    return values[RAW]


class TaskCode:
    """The half of a task that needs no torch: inputs from a sample, the prediction from outputs, and words for it."""

    def __init__(self, kit: Any, facts: Mapping[str, Any]) -> None:  # noqa: ANN401 - kits share no class
        self._kit, self._facts = kit, facts

    def inputs(self, raw: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - as it was given
        """Return the network's inputs by name, without batch axis.

        Raises:
            Rejected: an input is missing, an image is not uint8 [C, H, W], or the task's code fails.
        """
        how = self._facts["made_by"]
        if "module" in self._facts["code"]:
            self._check_raw(raw)
        if how != "preprocess":
            values = {name: np.asarray(each) for name, each in raw.items()}
            return {name: self._normalised(each) if how == "normalise" else each for name, each in values.items()}
        try:
            made = self._call("preprocess", raw)
        except Rejected as error:
            raise _of_missing(error.__cause__, raw) or error from error.__cause__
        if not isinstance(made, dict) or not all(isinstance(each, np.ndarray) for each in made.values()):
            raise Rejected("preprocess(raw) returned something else than a dict of arrays")
        return made

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> Any:  # noqa: ANN401 - as the task decides
        """Return the prediction for one sample."""
        return self._call("decode", dict(outputs))

    def show(self, prediction: Any, raw: Any) -> str:  # noqa: ANN401 - as the task decides
        """Return a prediction in words; the task's `show` is given the names of classes where it takes them."""
        if not hasattr(self._kit, "show"):
            return prediction_text(prediction)
        classes = tuple(self._facts["classes"])
        if _takes(self._kit.show, prediction, raw, classes=classes):
            return str(self._call("show", prediction, raw, classes=classes))
        by_place = () if _takes(self._kit.show, prediction, raw) else (classes,)
        return str(self._call("show", prediction, raw, *by_place))

    @property
    def can_draw(self) -> bool:
        """Whether the task draws its predictions into an image."""
        return hasattr(self._kit, "draw")

    def draw(self, prediction: Any, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:  # noqa: ANN401
        """Return an image with the prediction in it."""
        drawn: NDArray[np.uint8] = np.asarray(self._call("draw", prediction, image_HWC))
        if drawn.dtype != np.uint8 or drawn.ndim != IMAGE_AXES or drawn.shape[2] not in {1, 3}:
            raise Rejected(f"draw() returned {drawn.dtype} {list(drawn.shape)}, expected uint8 [H, W, 3]")
        return drawn

    def _check_raw(self, raw: Mapping[str, Any]) -> None:
        """Raise Rejected where a kind's sample lacks an input, or has an image that is not as those of its data."""
        check_names(raw, [each["name"] for each in self._facts["inputs"]])
        for name, wanted in raw_images(self._facts).items():
            values = np.asarray(raw[name])
            is_repeated = values.ndim == IMAGE_AXES and len(values) == 1 < len(self._facts["mean"])  # grey, as colours
            expected = wanted._replace(shape=[1, *wanted.shape[1:]]) if is_repeated else wanted
            check_input(name, values, expected)

    def _normalised(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype != np.uint8 or values.ndim != IMAGE_AXES:
            return values
        means = self._facts["mean"]
        rule = {**self._facts, "channels": len(means), "repeat_grey": len(values) < len(means)}
        made: NDArray[Any] = normalise(values[None], rule)[0]
        return made

    def _call(self, name: str, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the task decides
        try:
            return getattr(self._kit, name)(*given, **named)
        except Exception as error:
            raise Rejected(f"{name}() failed: {type(error).__name__}: {reason(error)}{_line_of(error)}") from error


def load_task_code(folder: Path, facts: Mapping[str, Any]) -> TaskCode:
    """Load the code in the folder `task` of `folder`. Raises Rejected where it cannot be loaded."""
    place, code = Path(folder).resolve() / FOLDER, facts["code"]
    try:
        if "file" in code:
            return TaskCode(_of_file(place, code["file"])(**code["arguments"]), facts)
        package = sys.modules[PACKAGE] = ModuleType(PACKAGE)
        package.__path__ = [str(place)]
        return TaskCode(kind_class(PACKAGE, code)(**code["settings"]), facts)
    except Rejected:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {reason(error)}{_line_of(error)}"
        raise Rejected(f"{FOLDER}/{code.get('file') or code.get('module')} cannot be loaded: {text}") from error


def _of_file(place: Path, name: str) -> Any:  # noqa: ANN401 - the user's function
    """Return the function `task` of a user's file; modules beside it are imported by their own names."""
    sys.path.insert(0, str(place))
    spec = importlib.util.spec_from_file_location("secateur_task", place / name)
    if spec is None or spec.loader is None:
        raise Rejected(f"{FOLDER}/{name} is not a Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.task


def kind_class(package: str, code: Mapping[str, Any]) -> Any:  # noqa: ANN401 - kits share no class
    """Return the class of a kind in its own file below a package, and nothing else that stands there."""
    module, name = code["module"], code["class"]
    if not NAME.fullmatch(module) or not NAME.fullmatch(name):
        raise Rejected(f"{FACTS}: the code is {module!a}, {name!a}, expected the names of a module and a class")
    found = getattr(importlib.import_module(f"{package}.{module}"), name, None)
    if not isinstance(found, type) or found.__module__ != f"{package}.{module}":
        raise Rejected(f"{FACTS}: {module}.{name} is not a class of that file")
    return found


def _of_missing(error: BaseException | None, raw: Any) -> Rejected | None:  # noqa: ANN401 - as it was given
    """Return what is to be raised where the task's code looked for something that a sample does not have."""
    if not isinstance(error, KeyError) or not isinstance(raw, dict) or not error.args or error.args[0] in raw:
        return None
    return Rejected(
        f"it lacks {error.args[0]}, which preprocess(raw) takes{_line_of(error)}: found {', '.join(raw) or 'nothing'}"
    )


def _takes(function: Callable[..., Any], *given: Any, **named: Any) -> bool:  # noqa: ANN401 - any arguments
    """Return whether a function can be called with these arguments."""
    try:
        inspect.signature(function).bind(*given, **named)
    except (TypeError, ValueError):  # the latter of functions that have no signature
        return False
    return True


def _line_of(error: BaseException) -> str:
    """Return the last line of a file in a folder called `task` that an error came through."""
    at, found = error.__traceback__, ""
    while at is not None:
        file = Path(at.tb_frame.f_code.co_filename)
        if FOLDER in file.parts and "on_device" not in file.parts:
            found = f" ({FOLDER}/{file.name}:{at.tb_lineno})"
        at = at.tb_next
    return found

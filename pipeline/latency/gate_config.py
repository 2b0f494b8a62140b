"""latency.toml: which files are gated, against what margin, on what terms. Every problem has its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from pipeline.core.artifact import FrozenModel
from pipeline.core.errors import InputError, Problem, RecipeError
from pipeline.core.reading import read_bytes
from pipeline.core.runtimes import DEFAULT_RUNTIME
from pipeline.core.stage import Runtime
from pipeline.core.units import parse_duration, parse_margin
from pipeline.latency.compare import ComparisonRequest
from pipeline.measure.devices.registry import device_record
from pipeline.measure.subjects import MeasureTerms
from pipeline.results.comparison import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
ANY = "any"


def _tolerance(found: object) -> object:
    return found if found == ANY else parse_margin(found)


def _device(found: object) -> object:
    try:
        device_record(str(found))
    except InputError as error:
        raise ValueError(str(error)) from error
    return found


Margin = Annotated[float, BeforeValidator(parse_margin)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]


class GateSettings(FrozenModel):
    """What can be said for all models at the top, and for one model in its table. What is left out has its default."""

    margin: Margin | None = Field(
        default=None, description="largest slowdown that is accepted; 3 %, 1 % of instructions"
    )
    budget: Seconds | None = Field(default=None, description="longest measuring time of one model; 30s")
    runtime: Runtime | None = Field(default=None, description=DEFAULT_RUNTIME)
    threads: int | None = Field(default=None, ge=1, description="1")
    batch: int | None = Field(default=None, ge=1, description="1")
    shapes: dict[str, tuple[int, ...]] | None = Field(
        default=None, description="sizes of inputs that a file leaves open"
    )
    device: Annotated[str, BeforeValidator(_device)] | None = Field(default=None, description="local")
    duty: Seconds | None = Field(default=None, description="idle time before each inference; none")
    tolerance: Annotated[float | Literal["any"], BeforeValidator(_tolerance)] | None = Field(
        default=None, description="how far outputs may differ, as a share of the largest output; 10 %"
    )
    metric: Metric | None = Field(default=None, description="what decides; CPU time with one thread, wall with more")


class GateModel(GateSettings):
    """One file to gate, relative to the configuration's folder."""

    name: str = Field(pattern=NAME, max_length=100)
    file: str = Field(min_length=1)


class GateConfig(GateSettings):
    """The whole file. `machine = "any"` allows a baseline that was accepted on another processor."""

    baselines: str = Field(default="baselines", min_length=1, description="folder of the store")
    machine: Literal["same", "any"] = "same"
    model: tuple[GateModel, ...] = Field(min_length=1)


@dataclass(frozen=True)
class GatedModel:
    """One model with everything decided: its file, the question that is asked of it, and where."""

    name: str
    file: Path
    question: ComparisonRequest
    device: str


def read_config(path: Path) -> GateConfig:
    """Read a configuration.

    Raises:
        InputError: it does not exist or is no TOML.
        RecipeError: keys or values are not usable, each with its line, what was found and what is allowed.
    """
    found = read_bytes(path, "a configuration such as latency.toml")
    try:
        text = found.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    except (ValueError, RecursionError) as error:  # no TOML, a number of thousands of digits, nested without end
        raise InputError(f"{path} is not TOML: {error}") from error
    try:
        config = GateConfig.model_validate(content)
    except ValidationError as error:
        problems = (_problem(each, text, content) for each in error.errors(include_url=False))
        raise RecipeError(str(path), tuple(sorted(problems, key=lambda each: each.line or 0))) from error
    names = [each.name for each in config.model]
    for twice in (index for index, name in enumerate(names) if name in names[:index]):
        message = f'found "{config.model[twice].name}" a second time, allowed: each name once'
        raise RecipeError(str(path), (Problem(f"model.{twice}.name", message, _line(text, ("model", twice, "name"))),))
    return config


def gated_models(config: GateConfig, folder: Path, *, force: bool = False) -> Iterator[GatedModel]:
    """Yield each model with its own settings over those of the top, over the defaults."""
    for model in config.model:
        chosen = {name: getattr(model, name) for name in GateSettings.model_fields}
        said = {name: getattr(config, name) if value is None else value for name, value in chosen.items()}
        metric = said["metric"]
        tolerance = 0.1 if said["tolerance"] is None else said["tolerance"]
        terms = MeasureTerms(
            threads=said["threads"] or 1,
            batch=said["batch"] or 1,
            shapes=said["shapes"] or {},
            pause_ns=round((said["duty"] or 0) * 1e9),
        )
        question = ComparisonRequest(
            margin=(0.01 if metric == "instructions" else 0.03) if said["margin"] is None else said["margin"],
            budget_s=said["budget"] or 30.0,
            metric=metric,
            tolerance=None if tolerance == ANY else tolerance,
            runtime=said["runtime"] or DEFAULT_RUNTIME,
            terms=terms,
            force=force,
        )
        yield GatedModel(model.name, folder / model.file, question, said["device"] or "local")


def _problem(error: Any, text: str, content: dict[str, Any]) -> Problem:  # noqa: ANN401 - pydantic's error details
    """Return one of pydantic's errors in this project's words, with its line."""
    place = tuple(error["loc"])
    known = GateModel.model_fields if place[0] == "model" and len(place) > 1 else GateConfig.model_fields
    allowed = ", ".join(known)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        message = f"found no such key, allowed: {allowed}" + (f"; did you mean {near[0]}?" if near else "")
    elif error["type"] == "missing":
        message = "missing, expected " + ("[[model]] tables with name and file" if place == ("model",) else "a value")
    elif error["type"] == "value_error":
        message = str(error["ctx"]["error"])
    else:
        message = f"found {_shown(place, content)}: {error['msg'][0].lower()}{error['msg'][1:]}"
    return Problem(".".join(map(str, place)), message, _line(text, place))


def _shown(place: Sequence[Any], content: Any) -> str:  # noqa: ANN401 - a TOML value
    for part in place:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            break  # a part that names a branch of a union, not a key
    return repr(content)[:60]


def _line(text: str, place: Sequence[Any]) -> int | None:
    """Return the line of a key: at the top, or in the n-th [[model]]; that of its table where the key is not there."""
    table = place[1] if place[0] == "model" and len(place) > 1 else None
    key = place[2] if table is not None and len(place) > 2 else place[0]  # noqa: PLR2004 - model, index, key
    current, header = None, None
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*model\s*\]\]", line):
            current = 0 if current is None else current + 1
            header = number if current == table else header
        elif current == table and re.match(rf"\s*[\"']?{re.escape(str(key))}[\"']?\s*[=.]", line):
            return number
    return header

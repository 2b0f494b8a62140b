"""What MODEL on the command line stands for: a recipe, a definition, a package's network, or a stored torch network.

Each gives a network and the shape of its inputs. The shape comes from the recipe's data or from the artifact, and
`--input` overrides it; a definition or a name alone knows no shape. Data is loaded only where nothing else says its
shape (the user's own `load`); a recipe's weights are not loaded, since shapes are all that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import torch

from pipeline.core.artifact import TensorSpec
from pipeline.core.code_inputs import NETWORK_FILE
from pipeline.core.dataset import INPUT
from pipeline.core.entry import ARTIFACT_FILE
from pipeline.core.errors import InputError, RecipeError
from pipeline.data import load_task
from pipeline.data.config import Cifar, DataFile, Elpv, FashionMnist, ImageFolder
from pipeline.inspect.exported_argument import main_files
from pipeline.network.definition import build_network, initialise_lazy_layers
from pipeline.network.library import ALLOWED, ARGUMENT, definition_of, split_reference
from pipeline.network.stored import load_network, stored_artifact
from pipeline.recipe import load_recipe
from pipeline.recipe.problems import shown_value
from pipeline.recipe.yaml import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from pipeline.recipe import Recipe


#: Digits of one size of an input.
MOST_DIGITS = 9
_RECIPE_SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True)
class Model:
    """A network with its name and its inputs; shapes have a batch of 1 first."""

    name: str
    network: nn.Module
    inputs: tuple[TensorSpec, ...]


def is_recipe(given: str | Path) -> bool:
    """Say whether MODEL is a recipe, by its name."""
    return Path(given).suffix in _RECIPE_SUFFIXES


def load_model(
    given: str, *, arguments: Sequence[str] = (), inputs: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Model:
    """Load the network that MODEL stands for.

    Args:
        given: path of a recipe (.yaml), of a definition (.py) or of a folder with network.json; or a name such as
            timm:resnet50.
        arguments: texts KEY=VALUE, arguments of the definition's build; values are YAML.
        inputs: texts such as '3,224,224' or '128:int64', one for each input, without the batch.
        overrides: texts KEY=VALUE as of `run --set`, for a recipe.

    Raises:
        InputError: nothing of the kind is there, an option does not fit it, or no shape is known.
    """
    found = _loaded(given, arguments, overrides, tuple(input_spec(text, index) for index, text in enumerate(inputs)))
    initialise_lazy_layers(found.network, found.inputs)
    return found


def _loaded(given: str, arguments: Sequence[str], overrides: Sequence[str], specs: tuple[TensorSpec, ...]) -> Model:
    path = Path(given)
    if is_recipe(path):
        _refuse("--arguments", arguments, "a recipe", "--set model.arguments.KEY=VALUE")
        return _of_recipe(path, overrides, specs)
    _refuse("--set", overrides, "anything but a recipe", "--arguments KEY=VALUE")
    if path.name == NETWORK_FILE or path.is_dir():
        _refuse("--arguments", arguments, "a stored network", "its own, which are stored with it")
        return _of_folder(path if path.is_dir() else path.parent, specs)
    return _of_definition(given, arguments, specs)


def _refuse(option: str, texts: Sequence[str], what: str, instead: str) -> None:
    if texts:
        raise InputError(f"found {option} {texts[0]} with {what}, allowed there: {instead}")


def _of_recipe(path: Path, overrides: Sequence[str], specs: tuple[TensorSpec, ...]) -> Model:
    recipe = load_recipe(path, overrides).recipe
    if recipe.model.stored:
        return _of_folder(recipe.model.stored, specs or _inputs(recipe))
    network = build_network(recipe.model.definition, recipe.model.arguments)
    return Model(recipe.name, network, specs or _inputs(recipe))


def _of_folder(folder: Path, specs: tuple[TensorSpec, ...]) -> Model:
    """Load a torch artifact; of a run folder, say which of its stages are one."""
    if not (folder / NETWORK_FILE).exists() or not (folder / ARTIFACT_FILE).exists():
        stages, files = _of_run(folder, (NETWORK_FILE,)), _of_run(folder, main_files())
        of_files = f", its exported files are in {', '.join(files)}" if files else ""
        run = f"a run; its networks in torch are {', '.join(stages)}{of_files}"
        found = run if stages else f"no {NETWORK_FILE}, {' or '.join(main_files())} in it"
        raise InputError(f"{folder}: found {found}. Expected the folder of one stored network or exported file.")
    artifact = stored_artifact(folder)
    return Model(str(folder), load_network(artifact), specs or artifact.inputs)


def _of_run(folder: Path, names: Sequence[str]) -> list[str]:
    return sorted(str(file.parent) for name in names for file in folder.glob(f"stages/*/{name}"))


def _of_definition(given: str, arguments: Sequence[str], specs: tuple[TensorSpec, ...]) -> Model:
    values = dict(_argument(text) for text in arguments)
    found = split_reference(given)
    if found is None:
        path = _python_file(given)
    else:
        if ARGUMENT in values:
            raise InputError(f"found {given} and --arguments {ARGUMENT}={values[ARGUMENT]}, allowed: one of them")
        path, values = _bundled_definition(given, found[0]), {**values, ARGUMENT: found[1]}
    if not specs:
        raise InputError(f"{given} does not say what it takes. Give one --input per input: --input 3,224,224")
    return Model(given, build_network(path, values), specs)


def _python_file(given: str) -> Path:
    path = Path(given)
    if not path.exists():
        found = f"found no file or folder {given}"
    elif path.suffix != ".py":
        found = f"found {given}, which is not a kind of model"
    else:
        return path
    raise InputError(
        f"{found}. Expected a recipe (.yaml), a model definition (.py), {ALLOWED}, the folder of a stored torch "
        f"network, such as runs/demo/stages/00-original, or an exported file (.onnx, model.xml)."
    )


def _bundled_definition(given: str, library: str) -> Path:
    try:
        return definition_of(library)
    except ValueError as error:
        raise InputError(f"{given}: {error}") from error


def _argument(text: str) -> tuple[str, Any]:
    """Return name and value of KEY=VALUE; the value is read as YAML, as a recipe's would be."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise InputError(f"--arguments: found {text!r}, expected KEY=VALUE with an argument's name, such as classes=10")
    try:
        document = read_text(value, "--arguments")
    except RecipeError as error:
        raise InputError(f"--arguments {text}: {error.problems[0].message}") from error
    for problem in document.problems.values():
        raise InputError(f"--arguments {text}: {problem.message}")
    if isinstance(document.data, (list, dict)):
        raise InputError(
            f"--arguments {text}: found {shown_value(document.data)}, expected a number, a text, true or false"
        )
    return key.strip(), document.data


def input_spec(text: str, index: int) -> TensorSpec:
    """Return the input that '3,224,224' or '128:int64' describes."""
    sizes, _, dtype = text.partition(":")
    digits = [size.strip() for size in sizes.split(",")]
    if not all(size.isdecimal() and len(size) <= MOST_DIGITS and int(size) for size in digits):
        raise InputError(f"--input: found {text!r}, expected sizes without the batch: 3,224,224 for an RGB image")
    if not isinstance(getattr(torch, dtype or "float32", None), torch.dtype):
        raise InputError(f"--input: found the type {dtype!r}, expected one of torch's, such as float32 or int64")
    shape = (1, *(int(size) for size in digits))
    return TensorSpec(name=f"input{index}" if index else "input", shape=shape, dtype=dtype or "float32")


def _inputs(recipe: Recipe) -> tuple[TensorSpec, ...]:
    """Return the inputs of a recipe's network for one sample; of data that come with the program none is loaded."""
    if recipe.task is None and recipe.data is not None and not isinstance(recipe.data, DataFile):
        return (TensorSpec(name=INPUT, shape=(1, *input_shape(recipe.data)), layout="NCHW"),)
    return load_task(recipe.task, recipe.data).inputs(1)


def input_shape(config: Elpv | ImageFolder | FashionMnist | Cifar) -> tuple[int, int, int]:
    """Return [C, H, W] of one image of a recipe's data, as the network sees it."""
    match config:
        case Elpv() | ImageFolder():
            return config.channels, config.size, config.size
        case FashionMnist():
            return 1, 28, 28
        case Cifar():
            return 3, 32, 32
        case _:
            assert_never(config)

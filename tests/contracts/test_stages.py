"""What every stage promises: its forms, its revision, described knobs, and a docstring that names source and limits."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline import api
from pipeline.api.write_stub import stub
from pipeline.core.artifact import StageRecord
from pipeline.core.stage import Stage, Target
from pipeline.results.run import What
from pipeline.stages import STAGES, AnyStage

if TYPE_CHECKING:
    from pipeline.core.artifact import Form

PACKAGE = Path(api.__file__).parents[1]
ADAPTER: TypeAdapter[Stage] = TypeAdapter(AnyStage)


@dataclass(frozen=True)
class Contract:
    """A smallest configuration, the forms that the stage starts from and what it makes of the first, its revision.

    `computes_in` is what a file is in by a record of that configuration, "" where the stage leaves that as it was.
    """

    config: dict[str, object]
    consumes: set[Form]
    produces: Form
    revision: int
    makes_file: bool = True
    computes_in: str = ""


CONTRACTS = {
    "prune": Contract({"ratio": 0.5}, {"torch"}, "torch", 7),
    "sparsify": Contract({"density": 0.5}, {"torch"}, "torch", 3),
    "factorize": Contract({"target": {"macs": 0.5}}, {"torch"}, "torch", 2),
    "sparsify by obs": Contract({"kind": "sparsify", "density": 0.5, "method": "obs"}, {"torch"}, "torch", 3),
    "share": Contract({}, {"torch"}, "torch", 4),
    "finetune": Contract({"epochs": 1}, {"torch"}, "torch", 3),
    "export": Contract({"to": "onnx"}, {"torch"}, "onnx", 2),
    "export again": Contract({"kind": "export", "to": "openvino"}, {"onnx"}, "openvino", 2),
    "simplify": Contract({}, {"onnx"}, "onnx", 1),
    "quantize": Contract({}, {"onnx"}, "onnx", 9, computes_in="int8"),
    "quantize-aware-finetune": Contract({"epochs": 1}, {"torch"}, "onnx", 7, computes_in="int8"),
    "measure": Contract({}, {"torch", "onnx", "openvino"}, "torch", 2, makes_file=False),
    "bundle": Contract({}, {"onnx", "openvino"}, "onnx", 1, makes_file=False),
}


CLASSES = tuple(STAGES.values())


def test_every_stage_has_a_contract() -> None:
    """A new stage needs a row above."""
    assert len(STAGES) == len(get_args(get_args(AnyStage)[0])) >= 8
    assert set(STAGES) == {contract.config.get("kind", name) for name, contract in CONTRACTS.items()}


@pytest.mark.parametrize("name", CONTRACTS)
def test_forms_and_revision(name: str) -> None:
    """The smallest configuration is valid and the forms and revision are as written down here."""
    contract = CONTRACTS[name]
    stage = ADAPTER.validate_python({"kind": name, **contract.config})
    assert stage.consumes == contract.consumes
    assert stage.produces(min(contract.consumes, key=["torch", "onnx", "openvino"].index)) == contract.produces
    assert stage.revision == contract.revision
    assert stage.makes_file == contract.makes_file
    assert stage.makes_file or stage.effect in get_args(What)
    assert stage.label.split()[0] == stage.kind
    assert type(stage.resolved(frozenset())) is type(stage)
    record = StageRecord(kind=stage.kind, revision=1, config=stage.model_dump(), parent_digest="", seconds=0)
    assert stage.computes_in(record) == contract.computes_in
    assert stage.libraries or stage.kind in {"prune", "bundle"}


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_every_knob_is_described(each: type[Stage]) -> None:
    """The description of a field is its only documentation, so each has one; the module says source and limits."""
    missing = [name for name, field in each.model_fields.items() if name != "kind" and not field.description]
    assert not missing
    text = sys.modules[each.__module__].__doc__ or ""
    assert "Source" in text
    assert "not help" in text


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_stages_are_frozen_and_strict(each: type[Stage]) -> None:
    """An unknown knob is refused."""
    kind = get_args(each.model_fields["kind"].annotation)[0]
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ADAPTER.validate_python({"kind": kind, **CONTRACTS[kind].config, "unknown": 1})


@pytest.mark.parametrize("kind", STAGES)
def test_the_api_has_every_stage(kind: str) -> None:
    """Its function, by the name of the class, writes what the recipe has, and the stub has its keys."""
    name = STAGES[kind].__name__
    assert name in api.__all__
    assert getattr(api, name)(a=1) == {"kind": kind, "a": 1}


def test_what_is_known_of_a_stage_stands_in_its_class() -> None:
    """Beside `stages/` no code asks for a stage's class or compares its kind: a new stage would fall through."""
    found = []
    files = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "stages")]
    named = ("pipeline.stages.", *(f'"{kind}"' for kind in STAGES))
    for path, text in ((path, path.read_text()) for path in files):
        for node in ast.walk(ast.parse(text)) if any(each in text for each in named) else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline.stages."):
                found.append((path.relative_to(PACKAGE), node.module))
            if isinstance(node, ast.Compare) and any(
                isinstance(each, ast.Constant) and each.value in STAGES for each in ast.walk(node)
            ):
                found.append((path.relative_to(PACKAGE), ast.unparse(node)))
    assert len(files) > 300
    assert found == []


def configured() -> dict[str, set[type]]:
    """Return the keys of all stages and of the settings within them, with the types of their defaults."""
    found: dict[str, set[type]] = {}
    models: list[type[BaseModel]] = [*CLASSES, Target]
    for model in models:
        for name, field in model.model_fields.items():
            if not field.is_required():
                found.setdefault(name, set()).add(type(field.default))
            models += [each for each in inner(field.annotation) if each not in models]
    return found


def inner(annotation: object) -> list[type[BaseModel]]:
    """Return the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in get_args(annotation) for each in inner(part)]


def test_defaults_stand_in_configurations_alone() -> None:
    """What methods and measuring are asked for in has no default of its own: a copy drifts from the recipe's."""
    keys, found, seen = configured(), [], set()
    assert keys["ratio"] == {type(None), float}
    for folder in ("compress", "measure", "network", "stages"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            module = import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
            for each in vars(module).values():
                if isinstance(each, type) and is_dataclass(each) and each.__module__ == module.__name__:
                    seen.add(each.__name__)
                    found += [
                        f"{each.__name__}.{field.name}"
                        for field in fields(each)
                        if field.default not in (MISSING, None) and type(field.default) in keys.get(field.name, ())
                    ]
    assert {
        "Augmentation",
        "Hyperparameters",
        "MeasureTerms",
        "PruneRequest",
        "QuantizeRequest",
        "SelectionRules",
    } <= seen
    assert found == []


def test_the_stub_is_the_one_of_these_stages() -> None:
    """pipeline/api/stages.pyi is what is written now (`make schema`)."""
    assert (PACKAGE / "api" / "stages.pyi").read_text() == stub()


WRITTEN = """\
from pipeline import api
from pipeline.api import Export, Finetune, Prune, Quantize, Measure
Prune(ratio=.5, rates={"*": 0.5}, keep=["a"])
Prune(rato=.5)
Finetune(epochs=3, distill=None)
Finetune()
Export(to="onnx")
Export(to="onxx")
Quantize(recover=("bias",), budget="30s")
Quantize(budget=30)
api.Measure(runtimes=["openvino"])
api.Measure(runtimes=3)
api.run(api.Recipe(name="a", model={}, data={}, stages=[Prune(), api.Bundle(samples=2)]), "runs/a").passed
api.run(Prune(ratio="50%"), "runs/a").files["onnxruntime"]
api.Prun
"""
#: Lines of the above that a type checker has to refuse, and the kind of its error.
WRONG = {4: "call-arg", 6: "call-arg", 8: "arg-type", 10: "arg-type", 12: "arg-type", 15: "attr-defined"}


def test_a_type_checker_knows_the_keys_of_a_stage(tmp_path: Path) -> None:
    """As a program sees them that imports `pipeline.api`; other modules of the package are left out, for time."""
    (tmp_path / "program.py").write_text(WRITTEN)
    files = [tmp_path / "program.py", *(PACKAGE / "api" / name for name in ("__init__.py", "stages.pyi", "values.py"))]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=skip", "--no-color-output"]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", *map(str, files)],
        check=False,
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if "program.py" in line and ": error:" in line]
    found = {int(line.split(":")[1]): line.rsplit("[", 1)[1].rstrip("]") for line in errors}
    assert found == WRONG, done.stdout + done.stderr

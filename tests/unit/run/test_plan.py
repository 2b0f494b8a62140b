"""Keys depend on what a step depends on, and on nothing else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

from pipeline.core.store import Store
from pipeline.recipe import load_recipe
from pipeline.run import plan
from pipeline.run.plan import labels, make_plan
from pipeline.stages import quantize
from pipeline.stages.prune import Prune

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.run.plan import Ingredients, PlannedStep
    from tests.project import Project


FIRST, SECOND = "a" * 64, "sha256:" + "b" * 64
TEACHER = "stages.finetune.distill={from: {definition: model.py, weights: teacher.safetensors, inputs: [%s]}}"


def steps(project: Project, *overrides: str, seed: int = 0, recipe: Path | None = None) -> tuple[PlannedStep, ...]:
    """Return every step."""
    loaded = load_recipe(recipe or project.recipe, overrides)
    return make_plan(loaded, Store(project.folder / "store"), seed).steps


def keys(project: Project, *overrides: str, seed: int = 0, recipe: Path | None = None) -> list[str]:
    """Return the key of every step."""
    return [step.key for step in steps(project, *overrides, seed=seed, recipe=recipe)]


def changed(first: list[str], second: list[str]) -> int:
    """Return the index of the first key that differs; everything after it differs as well."""
    index = next(index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    assert all(one != other for one, other in zip(first[index:], second[index:], strict=True))
    return index


def test_keys_are_the_same_in_another_folder(project: Project, tmp_path: Path) -> None:
    """Files count by content: the same project elsewhere has the same keys."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("toy.yaml", "model.py", "data.py"):
        (elsewhere / name).write_text((project.folder / name).read_text())
    assert keys(project) == keys(project, recipe=elsewhere / "toy.yaml")


def test_a_change_reaches_only_what_follows(project: Project) -> None:
    """Each kind of change starts at the step that it concerns."""
    before = keys(project)
    assert changed(before, keys(project, "stages.prune.ratio=0.4")) == 1
    assert changed(before, keys(project, "stages.quantize.images=16")) == 5
    assert changed(before, keys(project, "target.threads=2")) == 7
    assert changed(before, keys(project, "data.arguments={train: 64}")) == 0
    assert changed(before, keys(project, seed=1)) == 0
    (project.folder / "model.py").write_text((project.folder / "model.py").read_text() + "\n# changed\n")
    assert changed(before, keys(project)) == 0


def test_what_a_file_is_made_of_counts(project: Project) -> None:
    """Modules beside a definition or a data file, and the data's inputs: each starts at the step that it concerns.

    The original network is checked against the classes and shapes of the user's own data, so these concern it too.
    """
    labels = project.folder / "labels.txt"
    labels.write_text("0 1")
    (project.folder / "teacher.safetensors").write_text("")
    without = keys(project)
    for named, first in (("data.inputs=[%s]", 0), ("model.inputs=[%s]", 0), (TEACHER, 2)):
        given = named % labels.name
        before = keys(project, given)
        labels.write_text(f"{labels.read_text()} 1")
        assert keys(project) == without
        assert changed(before, keys(project, given)) == first
    for name, first in (("model", 0), ("data", 0)):
        file, module = project.folder / f"{name}.py", project.folder / f"{name}_parts.py"
        module.write_text("WIDTH = 16\n")
        file.write_text(f"import {name}_parts\n{file.read_text()}")
        before = keys(project)
        module.write_text("WIDTH = 24\n")
        assert changed(before, keys(project)) == first


def test_the_name_of_a_recipe_changes_nothing(project: Project) -> None:
    """A new name is no new work."""
    assert keys(project, "name=other") == keys(project)


def test_labels_tell_repeated_stages_apart(project: Project) -> None:
    """Two stages of one kind are numbered, exports carry their form."""
    stages = load_recipe(project.recipe).recipe.stages
    assert labels([stages[0], stages[1], stages[0], stages[2]]) == ["prune", "finetune", "prune #2", "export onnx"]


def test_keep_is_no_part_of_a_key(project: Project) -> None:
    """A stage that is kept whatever it brings has the key that it always had, and makes what its step is."""
    plain = steps(project)
    assert [step.made for step in plain] == [step.key for step in plain]
    assert "on_no_gain" not in plain[1].ingredients["config"]
    assert keys(project, "stages.prune.on_no_gain=keep") == [step.key for step in plain]


def test_a_gain_holds_for_one_target_on_one_machine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step depends on the target, its device and the machine, as `measure` does; what it makes does not."""
    asked = "stages.finetune.on_no_gain=skip"
    before = steps(project, asked)
    more = before[2].ingredients.keys() - steps(project)[2].ingredients.keys()
    assert more == {"target", "device", "machine", "gain"}
    assert {"onnxruntime", "openvino"} <= before[2].ingredients["versions"].keys()
    assert before[2].ingredients["machine"] == before[7].ingredients["machine"]
    others = [steps(project, asked, change) for change in ("target.threads=2", "target.device=ssh://board")]
    monkeypatch.setattr(plan, "machine_fingerprint", lambda: {"cpu_model": "another"})
    others.append(steps(project, asked))
    for other in others:
        assert changed([step.key for step in before], [step.key for step in other]) == 2
        assert before[2].made == other[2].made == steps(project)[2].made


def test_what_is_asked_of_a_gain_counts(project: Project) -> None:
    """`skip` and `fail` are two steps that make one thing, and both differ from `keep`."""
    found = [steps(project, f"stages.finetune.on_no_gain={asked}") for asked in ("keep", "skip", "fail")]
    assert len({each[2].key for each in found}) == 3
    assert len({each[2].made for each in found}) == 1
    assert len({each[3].made for each in found}) == 3


def test_a_stage_that_measures_for_itself_does_so_wherever_its_gain_is_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a stage makes depends on the machine as well."""
    monkeypatch.setattr(Prune, "measures", property(lambda _: True))
    first = steps(project, "stages.prune.on_no_gain=skip")[1]
    assert first.made == steps(project)[1].key != first.key
    monkeypatch.setattr(plan, "machine_fingerprint", lambda: {"cpu_model": "another"})
    assert steps(project, "stages.prune.on_no_gain=skip")[1].made != first.made


def test_a_precision_is_searched_for_one_target_on_one_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fastest file is another one elsewhere; one that is stated is near float in one runtime."""
    asked = "stages.quantize.engine=auto"
    before = keys(project, asked)
    assert steps(project, asked)[5].ingredients["config"]["scheme"] == "auto"
    for change in ("target.runtime=openvino", "target.threads=2", "target.device=ssh://board"):
        assert changed(before, keys(project, asked, change)) == 5
        assert (keys(project, change)[5] == keys(project)[5]) == ("runtime" not in change)
    gains = [steps(project, asked, "stages.quantize.on_no_gain=skip", *more)[5] for more in ((), ("target.threads=2",))]
    assert gains[0].made == before[5] != gains[0].key
    assert gains[0].made != gains[1].made
    monkeypatch.setattr(plan, "machine_fingerprint", lambda: {"cpu_model": "another"})
    assert changed(before, keys(project, asked)) == 5


def test_a_latency_is_that_of_a_file_of_one_target_on_one_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a stage that aims at a time has what that depends on, and nothing else of the stages behind."""
    asked = ("stages.prune.ratio=null", "stages.prune.target={latency: 0.5x}")
    before = keys(project, *asked)
    for change in ("target.runtime=openvino", "target.threads=2", "stages.quantize.scheme=u8u8"):
        assert changed(before, keys(project, *asked, change)) == 1
    assert changed(before, keys(project, *asked, "stages.quantize.images=16")) == 5
    planned = steps(project, *asked)[1]
    assert planned.ingredients["config"]["precision"] == planned.ingredients["config"]["priced"]["precision"] == "int8"
    assert [line.partition(" (")[0] for line in planned.remarks.lines()] == ["priced as int8"]
    monkeypatch.setattr(plan, "machine_fingerprint", lambda: {"cpu_model": "another"})
    assert changed(before, keys(project, *asked)) == 1


def test_versions_of_engines_count_where_they_are_used(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are installed; the plan works without them."""
    before = {engine: keys(project, f"stages.quantize.engine={engine}") for engine in ("auto", "nncf", "onnxruntime")}

    def newer(name: str) -> str:
        if name == "neural-compressor":
            raise PackageNotFoundError(name)
        return "99" if name == "nncf" else version(name)

    for module in (plan, quantize):
        monkeypatch.setattr(module, "version", newer)
    for engine, first in before.items():
        after = keys(project, f"stages.quantize.engine={engine}")
        assert after == first if engine == "onnxruntime" else changed(first, after) == 5
    versions = steps(project, "stages.quantize.engine=auto")[5].ingredients["versions"]
    assert (versions["nncf"], "neural-compressor" in versions) == ("99", False)


@pytest.mark.parametrize("layer", ["root", "path", "stem"])
def test_a_layer_counts_whatever_its_name(project: Project, layer: str) -> None:
    """Rates by layer are part of key and configuration, also of layers that are called as a place of data is."""
    asked = "stages=[{{kind: prune, allocation: rates, rates: {{{}: {}}}}}]"
    quarter, half = (steps(project, asked.format(layer, rate)) for rate in (0.25, 0.5))
    assert quarter[1].key != half[1].key
    assert quarter[1].ingredients["config"]["rates"] == {layer: 0.25}


@pytest.mark.parametrize("argument", ["root", "path"])
def test_arguments_of_data_count_whatever_their_name(project: Project, argument: str) -> None:
    """Of the data only the places themselves are left out of its identity."""
    first, second = (steps(project, f"data.arguments={{{argument}: {value}}}")[1] for value in "ab")
    assert first.ingredients["data"]["split"]["arguments"] == {argument: "a"}
    assert "path" not in first.ingredients["data"]["split"]
    assert first.ingredients["data"]["split"] != second.ingredients["data"]["split"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"config": {"epochs": 5}}, {"config": {"epochs": 6}}, "epochs: 5 -> 6"),
        ({"config": {"augment": {"shift": 0}}}, {"config": {"augment": {"shift": 2}}}, "augment.shift: 0 -> 2"),
        ({"config": {"from": {"weights": FIRST}}}, {"config": {"from": {"weights": SECOND}}}, "from.weights: changed"),
        ({"config": {"from": {"inputs": [FIRST]}}}, {"config": {"from": {"inputs": [SECOND]}}}, "from.inputs: changed"),
        ({"config": {"distill": None}}, {"config": {"distill": {"alpha": 1}}}, "distill: None -> settings"),
        ({"config": {"distill": None}}, {"config": {}}, "distill: None -> absent"),
        ({"inputs": [["a.txt", FIRST]]}, {"inputs": [("a.txt", SECOND)]}, "a.txt: changed"),
        ({"inputs": [["a.txt", FIRST]], "seed": 0}, {"inputs": [("a.txt", FIRST)], "seed": 1}, "seed: 0 -> 1"),
        ({"definition": FIRST}, {"definition": SECOND}, "definition: changed"),
        ({"weights": None}, {"weights": FIRST}, "weights: None -> a file"),
        ({"data": {"digest": FIRST}}, {"data": {"digest": SECOND}}, "data: changed"),
        ({"arguments": {"list": []}}, {"arguments": {"list": [1]}}, "list: [] -> [1]"),
        ({"parent": FIRST}, {"parent": SECOND}, "follows a step that changed"),
    ],
)
def test_what_changed_is_said_by_key(before: Ingredients, now: Ingredients, said: str) -> None:
    """Down to the key that differs; files are said to have changed, without their digests."""
    assert plan._difference({"kind": "prune", **before}, {"kind": "prune", **now}) == said

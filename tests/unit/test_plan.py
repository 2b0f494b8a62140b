"""Keys depend on what a step depends on, and on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.store import Store
from pipeline.plan import labels, make_plan
from pipeline.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project


def keys(project: Project, *overrides: str, seed: int = 0, recipe: Path | None = None) -> list[str]:
    """Return the key of every step."""
    loaded = load_recipe(recipe or project.recipe, overrides)
    return [step.key for step in make_plan(loaded, Store(project.folder / "store"), seed).steps]


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


def test_the_name_of_a_recipe_changes_nothing(project: Project) -> None:
    """A new name is no new work."""
    assert keys(project, "name=other") == keys(project)


def test_labels_tell_repeated_stages_apart(project: Project) -> None:
    """Two stages of one kind are numbered, exports carry their form."""
    stages = load_recipe(project.recipe).recipe.stages
    assert labels([stages[0], stages[1], stages[0], stages[2]]) == ["prune", "finetune", "prune #2", "export onnx"]

"""A frontier: which stage gets the targets, points that cannot be reached, what is not run again, what is Pareto."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.errors import DeviceError, InputError, StageError, UnreachableError
from pipeline.core.stage import SilentProgress
from pipeline.core.store import Store
from pipeline.recipe import LoadedRecipe, load_recipe
from pipeline.results.frontier import FRONTIER_FILE, Frontier, FrontierFile, FrontierPoint, mark_pareto
from pipeline.results.run import Interval, Row, RunReport, Score, TaskFacts, Timing
from pipeline.run.frontier import FrontierRun, asked_points, parse_targets, target_stage
from pipeline.run.plan import make_plan
from pipeline.run.runner import Run
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STAGES = "stages:\n  - {kind: prune, target: {latency: 0.9x}}\n  - {kind: export, to: onnx}\n"


def interval(value: float) -> Interval:
    """Return an estimate that is known to a tenth."""
    return Interval(value=value, low=0.9 * value, high=1.1 * value)


def loader(recipe: Path) -> Callable[[Sequence[str]], LoadedRecipe]:
    """Return what reads a recipe with overrides."""
    return lambda overrides: load_recipe(recipe, overrides)


@pytest.mark.parametrize(
    ("texts", "found"),
    [(["0.70x", " 2ms "], ("0.7x", "2ms")), (["0.5x", "0.5x"], ("0.5x",)), (["0.001s"], ("1ms",))],
)
def test_targets_are_written_as_in_a_recipe(texts: list[str], found: tuple[str, ...]) -> None:
    """Each once, so that a folder has one name."""
    assert parse_targets(texts) == found


@pytest.mark.parametrize("text", ["", "1x", "1.2x", "50%", "half", "0x", "-1ms", "../0.5x"])
def test_other_targets_are_refused(text: str) -> None:
    """With what is allowed."""
    with pytest.raises(InputError, match=r"latency: found .*allowed"):
        parse_targets([text])


@pytest.mark.parametrize(
    ("stages", "stage", "found"),
    [
        ("[{kind: prune, target: {latency: 2ms}}]", None, 0),
        ("[{kind: prune, ratio: 0.5}, {kind: prune, target: {macs: 0.5}}]", None, 1),
        ("[{kind: prune, target: {macs: 0.5}}, {kind: prune, target: {latency: 0.5x}}]", 1, 1),
        ("[{kind: prune, ratio: 0.5}]", None, "has no prune stage with a target"),
        (
            "[{kind: prune, target: {macs: 0.5}}, {kind: prune, target: {latency: 0.5x}}]",
            None,
            "stages with a target, at stages.0, stages.1: say which with --stage",
        ),
        ("[{kind: prune, target: {macs: 0.5}}]", 1, "stage: found 1, allowed: stages.0"),
    ],
)
def test_the_one_stage_with_a_target_gets_them(
    tmp_path: Path, stages: str, stage: int | None, found: int | str
) -> None:
    """Where there are several, one has to be named."""
    loaded = load_recipe(Project(tmp_path).recipe, [f"stages={stages}"])
    if isinstance(found, int):
        assert target_stage(loaded, stage) == found
        return
    with pytest.raises(InputError, match=found):
        target_stage(loaded, stage)


@pytest.fixture
def asked(tmp_path: Path) -> FrontierRun:
    """Return a frontier of three targets that nobody has run."""
    project = Project(tmp_path)
    project.stages(STAGES)
    points = asked_points(loader(project.recipe), ("0.7x", "0.5x", "2ms"), 0)
    return FrontierRun(points, 0, tmp_path / "all", Store(tmp_path / "store"), 0, SilentProgress())


def report_of(run: Run, milliseconds: float, score: float, original: float = 4.0) -> RunReport:
    """Return what a run would find whose result takes so long and is so good, and its original too."""
    asked = {"milliseconds": 2.0} if run.folder.name == "2ms" else {"factor": float(run.folder.name[:-1])}
    aim = {
        "runtime": "onnxruntime",
        "device": "local",
        "threads": 1,
        "precision": "fp32",
        "asked": asked,
        "whole_ms": interval(4.0).model_dump(),
        "ratio": interval(milliseconds / 4).model_dump(),
        "predicted": 0.5,
        "met": True,
        "model": {"probes": 1, "median_error": 0.0, "p90_error": 0.0, "trusted": True, "seconds": 1.0},
    }

    def row(index: int, kind: str, times: Timing, good: float, **more: Any) -> Row:  # noqa: ANN401
        given = {"form": "onnx", "digest": "", "folder": "", "seconds": 0, "size_bytes": 100, "timings": (times,)}
        score_ = Score.model_validate({"images": 40, "accuracy": good})
        return Row.model_validate({"index": index, "label": kind, "kind": kind, "validation": score_, **given, **more})

    first = Timing(runtime="onnxruntime", threads=1, milliseconds=interval(original))
    last = first.model_copy(update={"milliseconds": interval(99.0), "speedup": interval(original / milliseconds)})
    return RunReport.model_validate(
        {
            "name": "toy",
            "recipe_file": "toy.yaml",
            "recipe": {},
            "data": {},
            "versions": {},
            "machine": {},
            "recipe_digest": run.loaded.digest,
            "target": run.loaded.recipe.target,
            "seed": run.seed,
            "started": "",
            "seconds": 1.0,
            "status": "finished",
            "rows": (row(0, "original", first, 0.9), row(1, "prune", last, score, changed={"latency": aim})),
        }
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have runs end at once, by target with what is set: milliseconds and score, or an error. `runs` lists them."""
    outcomes: dict[str, Any] = {"0.7x": (2.8, 0.9), "0.5x": (2.0, 0.8), "2ms": (2.0, 0.85), "runs": []}

    def execute(run: Run) -> RunReport:
        assert not run.test
        outcomes["runs"].append(run.folder.name)
        outcome = outcomes[run.folder.name]
        if isinstance(outcome, Exception):
            raise outcome
        found = report_of(run, *outcome, outcomes.get("original", 4.0))
        run.folder.mkdir(parents=True, exist_ok=True)
        steps = [step.ingredients for step in make_plan(run.loaded, run.store, run.seed).steps]
        (run.folder / "plan.json").write_text(json.dumps(steps))
        (run.folder / "run.json").write_text(found.model_dump_json())
        return found

    monkeypatch.setattr(Run, "execute", execute)
    return outcomes


def test_points_have_what_their_runs_found(asked: FrontierRun, ran: dict[str, Any]) -> None:
    """Ratios to the unpruned file and to the FP32 file, times, scores and their change; 2ms is as fast and better."""
    found = asked.execute()
    assert Frontier.model_validate_json((asked.folder / FRONTIER_FILE).read_text()) == found
    assert ran["runs"] == ["0.7x", "0.5x", "2ms"]
    assert found.original.milliseconds == interval(4.0)
    first = found.points[0]
    assert first.ratio == interval(0.7)
    assert (first.asked_ratio, found.points[2].asked_ratio) == (0.7, 0.5)
    assert first.milliseconds
    assert first.milliseconds.value == pytest.approx(2.8)
    assert first.original_ratio
    assert first.original_ratio.value == pytest.approx(0.7)
    assert first.original_ratio.low < 0.7 < first.original_ratio.high
    assert [point.change for point in found.points] == pytest.approx([0.0, -0.1, -0.05])
    assert [point.pareto for point in found.points] == [True, False, True]
    assert [point.size_bytes for point in found.points] == [100, 100, 100]


def test_finished_points_are_not_run_again(asked: FrontierRun, ran: dict[str, Any]) -> None:
    """Unless the recipe has changed since, or the file is damaged; others go on where a device was lost."""
    ran["2ms"] = DeviceError("gone")
    with pytest.raises(DeviceError):
        asked.execute()
    kept = Frontier.model_validate_json((asked.folder / FRONTIER_FILE).read_text())
    assert [point.target for point in kept.points] == ["0.7x", "0.5x"]
    ran["2ms"] = (2.0, 0.85)
    ran["runs"].clear()
    assert len(asked.execute().points) == 3
    assert ran["runs"] == ["2ms"]
    recipe = asked.asked[0].loaded.path
    recipe.write_text(recipe.read_text().replace("to: onnx}", "to: onnx}\n  - {kind: simplify}"))
    asked.asked = asked_points(loader(recipe), ("0.7x",), 0)
    asked.execute()
    assert ran["runs"] == ["2ms", "0.7x"]
    (asked.folder / "0.7x" / "run.json").write_text("{")
    asked.execute()
    assert ran["runs"] == ["2ms", "0.7x", "0.7x"]


def test_finished_points_stay_whatever_is_asked_for(asked: FrontierRun, ran: dict[str, Any]) -> None:
    """With the original that they count from; one that is asked for again has its place at the end, and its numbers."""
    before = asked.execute()
    ran["original"] = 8.0
    ran["0.6x"] = (2.4, 0.82)
    load = loader(asked.asked[0].loaded.path)
    asked.asked = asked_points(load, ("0.6x", "0.5x"), 0)
    found = asked.execute()
    assert [point.target for point in found.points] == ["0.7x", "2ms", "0.6x", "0.5x"]
    assert found.original == before.original
    old = {point.target: point for point in before.points}
    assert all(point == old[point.target] for point in found.points if point.target in old)
    assert found.points[2].milliseconds
    assert found.points[2].milliseconds.value == pytest.approx(4.0 * 2.4 / 8.0)
    assert ran["runs"] == ["0.7x", "0.5x", "2ms", "0.6x"]
    assert all(each.target in (asked.folder / "frontier.html").read_text() for each in found.points)


@pytest.mark.parametrize("damage", ["recipe", "seed", "record", "target", "run"])
def test_what_does_not_hold_any_more_does_not_stay(asked: FrontierRun, ran: dict[str, Any], damage: str) -> None:
    """Another recipe or seed, a record that cannot be read, a target that is none, a run that is gone."""
    asked.execute()
    assert len(ran["runs"]) == 3
    recipe, record = asked.asked[0].loaded.path, asked.folder / FRONTIER_FILE
    if damage == "recipe":
        recipe.write_text(recipe.read_text().replace("to: onnx}", "to: onnx}\n  - {kind: simplify}"))
    elif damage == "seed":
        asked.seed = 1
    elif damage == "record":
        record.write_text(record.read_text()[:-9])
    elif damage == "target":
        record.write_text(record.read_text().replace('"0.7x"', '"../0.7x"').replace('"2ms"', '"2x"'))
    else:
        for name in ("0.7x", "2ms"):
            (asked.folder / name / "run.json").unlink()
    asked.asked = asked_points(loader(recipe), ("0.5x",), 0)
    assert [point.target for point in asked.execute().points] == ["0.5x"]


def test_the_page_is_as_old_as_the_record(asked: FrontierRun, ran: dict[str, Any]) -> None:
    """After an interruption it has the points that are done."""
    ran["2ms"] = DeviceError("gone")
    with pytest.raises(DeviceError):
        asked.execute()
    page = (asked.folder / "frontier.html").read_text()
    assert "0.7x" in page
    assert "0.5x" in page
    assert "2ms" not in page


def test_what_cannot_be_reached_is_a_point_that_says_so(asked: FrontierRun, ran: dict[str, Any]) -> None:
    """And so is a stage that fails; bad input of another kind ends it."""
    ran |= {"0.7x": UnreachableError("0.8x is left"), "0.5x": StageError("not finite")}
    found = asked.execute()
    assert [(point.status, point.why) for point in found.points] == [
        ("unreachable", "0.8x is left"),
        ("failed", "not finite"),
        ("finished", ""),
    ]
    assert found.original.score  # of the one that was run
    ran["0.7x"] = InputError("no such images")
    with pytest.raises(InputError, match="no such images"):
        asked.execute()


def test_pareto_looks_at_the_metric_and_at_the_original() -> None:
    """A lower error is better; a point that is worse than the original in both is none; equals are both."""

    def file(kind: type[Any], ms: float, error: float, **more: Any) -> Any:  # noqa: ANN401
        score = Score.model_validate({"images": 9, "RMSE": error})
        return kind(milliseconds=interval(ms), score=score, **more)

    points = [
        file(FrontierPoint, ms, error, target=str(place), folder="")
        for place, (ms, error) in enumerate(((3, 0.2), (1, 0.5), (1, 0.5), (2, 0.6), (5, 0.3)))
    ]
    task = TaskFacts.model_validate(
        {"metrics": [{"name": "RMSE", "unit": "m", "high": None, "higher_is_better": False}]}
    )
    found = Frontier(
        name="",
        recipe_file="",
        stage=0,
        target={},  # type: ignore[arg-type]
        seed=0,
        task=task,
        original=file(FrontierFile, 4, 0.2),
        points=(*points, FrontierPoint(target="x", folder="x", status="failed", why="so")),
    )
    assert [point.pareto for point in mark_pareto(found).points] == [True, True, True, False, False, False]

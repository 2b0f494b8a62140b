"""The whole chain as its user runs it: results, cache, resumption, and one clear message for what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from tests.project import SMALL_STAGES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Commands
    from tests.project import Project

    Finished = tuple[Project, subprocess.CompletedProcess[str]]

LABELS = ["original", "prune", "finetune", "export onnx", "simplify", "quantize", "export openvino", "measure"]
#: A training that is still going on when it is killed after its first epoch.
LONG = SMALL_STAGES.replace("epochs: 2", "epochs: 40")


def digests(run: Path) -> list[str]:
    """Return the digest of every row of a run."""
    return [row["digest"] for row in json.loads((run / "run.json").read_text())["rows"]]


def test_every_stage_has_its_row(finished: Finished) -> None:
    """The run ends well; each row has accuracy, size, cost and seconds, and each file a time in a runtime."""
    project, done = finished
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["label"] for row in report["rows"]] == LABELS
    for row in report["rows"]:
        assert row["validation"]["images"] == 40
        assert min(row["macs"], row["parameters"], row["size_bytes"], row["gzip_bytes"]) > 0
        assert row["timings"]
    by_label = {row["label"]: row for row in report["rows"]}
    assert by_label["prune"]["macs"] < 0.6 * by_label["original"]["macs"]
    assert by_label["quantize"]["size_bytes"] < by_label["simplify"]["size_bytes"] * 1.5
    assert {timing["runtime"] for timing in by_label["quantize"]["timings"]} == {"onnxruntime", "openvino"}
    assert by_label["finetune"]["validation"]["accuracy"] > 0.8
    assert report["final"]["result"]["images"] == 40
    assert (project.folder / "runs/toy/report.html").stat().st_size > 5_000


def test_accuracy_is_that_of_the_file(finished: Finished) -> None:
    """The accuracy in the report is found again by running the linked int8 file with onnxruntime alone."""
    project, done = finished
    names: dict[str, object] = {}
    exec((project.folder / "data.py").read_text(), names)  # noqa: S102 (the test's own file)
    data = names["load"]()  # type: ignore[operator]
    session = onnxruntime.InferenceSession(str(project.folder / "runs/toy/stages/05-quantize/model.onnx"))
    (name,) = (each.name for each in session.get_inputs())
    images = data.normalisation(data.validation.images)
    found = np.concatenate([session.run(None, {name: image[None]})[0].argmax(1) for image in images])
    row = next(row for row in json.loads(done.stdout)["rows"] if row["label"] == "quantize")
    assert row["validation"]["accuracy"] == pytest.approx(float((found == data.validation.labels).mean()))


def test_second_run_takes_everything_from_the_store(finished: Finished) -> None:
    """Nothing runs again, the files are the same, and plan says so."""
    project, _ = finished
    before = digests(project.folder / "runs/toy")
    planned = json.loads(project.command("plan", "toy.yaml", "--json").stdout)
    assert all(step["cached"] for step in planned)
    again = project.command("run", "toy.yaml", "--json")
    assert all(row["cached"] for row in json.loads(again.stdout)["rows"])
    assert digests(project.folder / "runs/toy") == before


def test_plan_says_what_changed(finished: Finished) -> None:
    """After an override only that stage and what follows would run, with the reason."""
    project, _ = finished
    steps = json.loads(project.command("plan", "toy.yaml", "--set", "stages.finetune.epochs=4", "--json").stdout)
    assert [step["cached"] for step in steps] == [True, True, *[False] * 6]
    assert steps[2]["reason"] == "epochs: 3 -> 4"
    assert steps[3]["reason"] == "follows a step that changed"


def test_report_again(finished: Finished) -> None:
    """`report` shows the table of a finished run and names the page."""
    project, _ = finished
    shown = project.command("report", "runs/toy")
    assert shown.returncode == 0
    assert "report.html" in shown.stdout
    assert "quantize" in shown.stdout
    assert project.command("report", "nowhere").returncode == 2


def test_bench_pairs_files(finished: Finished) -> None:
    """Two files are measured together, the second with its ratio to the first."""
    project, _ = finished
    files = ("runs/toy/stages/03-export-onnx/model.onnx", "runs/toy/stages/05-quantize/model.onnx")
    found = json.loads(project.command("bench", *files, "--budget", "300ms", "--json").stdout)
    assert [subject["label"] for subject in found["subjects"]] == list(files)
    shown = project.command("bench", *files, "--budget", "300ms")
    assert "Speedup" in shown.stdout
    missing = project.command("bench", "nowhere.onnx")
    assert missing.returncode == 2
    assert "nowhere.onnx does not exist" in missing.stderr


def wait_for(project: Project, pattern: str) -> None:
    """Wait until a file of this pattern lies in the store."""
    for _ in range(6000):
        if list((project.folder / "store").glob(pattern)):
            return
        time.sleep(0.05)
    pytest.fail(f"no {pattern} in the store after five minutes")


@pytest.fixture(scope="module")
def long(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with a long training that has run undisturbed."""
    project = new_project(tmp_path_factory.mktemp("long"))
    project.stages(LONG)
    assert project.command("run", "toy.yaml").returncode == 0
    return project


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_resumes_to_the_same_bytes(long: Project, project: Project, kill: signal.Signals) -> None:
    """A run that is killed in training goes on inside the stage, and all files equal those of a run left alone."""
    project.stages(LONG)
    process = project.start("run", "toy.yaml")
    wait_for(project, "work/*/training.pt")
    os.kill(process, kill)
    killed = project.wait(process)
    if kill == signal.SIGINT:
        assert killed.returncode == 130
        assert "Resume with: secateur run toy.yaml" in killed.stderr
        assert json.loads((project.folder / "runs/toy/run.json").read_text())["status"] == "interrupted"
    resumed = project.command("run", "toy.yaml")
    assert resumed.returncode == 0
    assert "resumed after epoch" in resumed.stderr
    assert digests(project.folder / "runs/toy") == digests(long.folder / "runs/toy")


def test_two_runs_cannot_share_a_folder(project: Project) -> None:
    """While one run writes into a folder, another is refused with exit code 2."""
    change = ("--set", "stages.finetune.epochs=2000")
    first = project.start("run", "toy.yaml", *change)
    wait_for(project, "work/*/training.pt")
    second = project.command("run", "toy.yaml", *change)
    os.kill(first, signal.SIGINT)
    project.wait(first)
    assert second.returncode == 2
    assert "another run is writing into runs/toy" in second.stderr


@pytest.mark.slow
def test_ten_runs_at_once_share_a_store(project: Project) -> None:
    """Two seeds, each five times: all finish, with equal files for equal seeds, and each file made once."""
    project.stages("stages:\n  - {kind: export, to: onnx}\n")
    started = [
        project.start("run", "toy.yaml", "--seed", str(number % 2), "--out", f"runs/{number}") for number in range(10)
    ]
    ended = [project.wait(process) for process in started]
    assert [each.returncode for each in ended] == [0] * 10, [each.stderr for each in ended]
    for seed in range(2):
        runs = [project.folder / f"runs/{number}" for number in range(seed, 10, 2)]
        assert len({tuple(digests(run)) for run in runs}) == 1
        rows = [json.loads((run / "run.json").read_text())["rows"] for run in runs]
        made = [sum(not row["cached"] for row in each) for each in zip(*rows, strict=True)]
        assert made == [1, 1]


def test_a_run_that_was_killed_anywhere_or_damaged_is_made_whole(finished: Finished) -> None:
    """Missing and changed files of the store, and a plan of no bytes, are told and mended: the files are as before."""
    project, _ = finished
    run, before = project.folder / "runs/toy", digests(project.folder / "runs/toy")
    keys = {str(step["label"]): str(step["key"]) for step in planned(project)}
    by_label = {label: project.folder / "store" / key[:2] / key for label, key in keys.items()}
    (by_label["prune"] / "artifact.json").unlink()
    (by_label["export onnx"] / "model.onnx").write_bytes(b"")
    (run / "plan.json").write_text("")
    assert [step["cached"] for step in planned(project)] == [True, False, True, False, *[True] * 4]
    again = project.command("run", "toy.yaml", "--json")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is made again") == 2
    assert "plan.json cannot be read" in again.stderr
    assert [row["cached"] for row in json.loads(again.stdout)["rows"]] == [True, False, True, False, *[True] * 4]
    assert digests(run) == before


def test_a_stored_network_is_checked_against_the_data(finished: Finished) -> None:
    """Data of other classes than those it was stored for are refused: the network is checked again."""
    project, _ = finished
    text = (project.folder / "data.py").read_text()
    try:
        (project.folder / "data.py").write_text(text.replace('"abcdefgh"[:classes]', '"abc"'))
        done = project.command("run", "toy.yaml", "--out", "runs/classes")
    finally:
        (project.folder / "data.py").write_text(text)
    assert done.returncode == 2
    assert "the data has 3 classes" in done.stderr


def planned(project: Project) -> list[dict[str, object]]:
    """Return the steps that `plan` tells."""
    found: list[dict[str, object]] = json.loads(project.command("plan", "toy.yaml", "--json").stdout)
    return found


def test_networks_are_timed_in_torch_where_asked(finished: Finished) -> None:
    """Runtime torch times the networks before their export, against the original network."""
    project, _ = finished
    change = ("--set", "stages.measure.runtimes=[torch, onnxruntime]", "--no-test", "--out", "runs/torch", "--json")
    rows = json.loads(project.command("run", "toy.yaml", *change).stdout)["rows"]
    assert [timing["runtime"] for timing in rows[2]["timings"]] == ["torch", "onnxruntime"]
    assert rows[2]["timings"][0]["speedup"]["value"] > 0


def test_the_test_split_can_be_left_alone(finished: Finished) -> None:
    """With --no-test the report has no final test, and everything else."""
    project, _ = finished
    found = json.loads(project.command("run", "toy.yaml", "--no-test", "--out", "runs/choose", "--json").stdout)
    assert found["final"] is None
    assert found["status"] == "finished"
    assert "Final test" not in project.command("report", "runs/choose").stdout


def test_budget_decides_the_exit_code(finished: Finished) -> None:
    """An easy budget passes with 0, an impossible one ends with 1 after everything was written."""
    project, _ = finished
    recipe = project.recipe.read_text()
    easy, hard = project.folder / "easy.yaml", project.folder / "hard.yaml"
    easy.write_text(recipe.replace("stages:", "budget: {accuracy_drop: 60pt, size: 10x}\nstages:"))
    hard.write_text(recipe.replace("stages:", "budget: {size: 0.01x}\nstages:"))
    assert project.command("run", "easy.yaml").returncode == 0
    assert project.command("run", "hard.yaml").returncode == 1
    assert json.loads((project.folder / "runs/hard/run.json").read_text())["status"] == "finished"


BAD = {
    "no such file": (["run", "missing.yaml"], {}, r"missing\.yaml"),
    "ratio": (["run", "toy.yaml", "--set", "stages.prune.ratio=1.5"], {}, r"stages\.(0|prune)\.ratio.*1\.5"),
    "from the future": (["run", "toy.yaml"], {"toy.yaml": "format: 9\nname: x\n"}, "upgrade secateur"),
    "class count": (["run", "toy.yaml", "--set", "model.arguments={classes: 3}"], {}, r"2 classes .*model\.arguments"),
    "definition": (["run", "toy.yaml"], {"model.py": "x = 1\n"}, "has no function build"),
    "data file": (["run", "toy.yaml"], {"data.py": "def load():\n    return 1\n"}, r"load\(\) returned int"),
    "not weights": (["run", "toy.yaml", "--set", "model.weights=data.py"], {}, r"data\.py"),
    "prune what is not there": (["run", "toy.yaml", "--set", "stages.prune.keep=[nothing*]"], {}, "nothing"),
    "more images than there are": (["run", "toy.yaml", "--set", "stages.quantize.images=100000"], {}, "96"),
    "chain": (["validate", "toy.yaml", "--set", "stages=[{kind: quantize}]"], {}, "quantize"),
    "untraceable": (
        ["run", "toy.yaml"],
        {
            "model.py": "import torch\nfrom torch import nn\nclass M(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.fc = nn.Linear(144, 2)\n    def forward(self, x):\n"
            "        if x.sum().item() > 0:\n            x = x * 2\n        return self.fc(x.flatten(1))\n"
            "def build(classes=2):\n    return M()\n"
        },
        r"cannot be exported to ONNX.*model\.py:8",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_one_message_and_exit_code_2(project: Project, case: str) -> None:
    """No traceback, one message that names the thing, exit code 2."""
    arguments, files, pattern = BAD[case]
    for name, text in files.items():
        (project.folder / name).write_text(text)
    done = project.command(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(pattern, done.stderr, re.DOTALL), done.stderr


def test_divergence_is_exit_code_3_and_keeps_what_was_finished(project: Project) -> None:
    """NaN in training stops the stage; the rows before it are in run.json, and the report says what failed."""
    done = project.command("run", "toy.yaml", "--set", "stages.finetune.learning_rate=1.0e+30")
    assert done.returncode == 3
    assert "training diverged" in done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((project.folder / "runs/toy/run.json").read_text())
    assert report["status"] == "failed"
    assert [row["label"] for row in report["rows"]] == ["original", "prune"]
    assert "training diverged" in (project.folder / "runs/toy/report.html").read_text()


def test_full_disk_is_one_message(project: Project, commands: Commands) -> None:
    """A write that fails for lack of space says so, with exit code 3."""
    done = commands.run(project.folder, "run", "toy.yaml", environment=project.environment, full_from=4)
    assert done.code == 3
    assert "the disk is full" in done.err
    assert "Traceback" not in done.err

"""Gates over prepared comparisons: what is measured against what, and what follows for all models together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.entry import ARTIFACT_FILE
from pipeline.core.errors import DeviceError, OutputsError
from pipeline.core.runtimes import FORMS
from pipeline.core.stage import SilentProgress
from pipeline.latency.baselines import BaselineStore
from pipeline.latency.gate import Gate
from pipeline.latency.gate_config import gated_models, read_config
from tests.unit.latency.gate_fixtures import MACHINE, Prepared

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.gate import GateResult

PASS, FAIL, SHORT = ("PASS", 1.0), ("FAIL", 0.0001), ("INCONCLUSIVE", 0.3)


class Project:
    """A folder with a configuration, files of models and a store."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names = folder, names
        for name in names:
            (folder / f"{name}.onnx").write_text(f"network {name}")
        tables = "".join(f'[[model]]\nname = "{name}"\nfile = "{name}.onnx"\n' for name in names)
        (folder / "latency.toml").write_text(tables)
        self.store = BaselineStore(folder / "baselines")

    def gate(self, prepared: Prepared, *, force: bool = False, **options: Any) -> GateResult:  # noqa: ANN401
        """Run the gate over all models."""
        models = list(gated_models(read_config(self.folder / "latency.toml"), self.folder, force=force))
        task = Gate(store=self.store, config="latency.toml", results=self.folder / "results", **options)
        return task.run(models, SilentProgress(), prepared)

    def accept(self, reason: str = "first", **options: Any) -> None:  # noqa: ANN401
        """Make all files the baselines."""
        assert self.gate(Prepared({name: [PASS] for name in self.names}), accept=reason, **options).exit_code == 0


def test_a_model_without_a_baseline_is_bad_input(tmp_path: Path) -> None:
    """The message says how to accept one; nothing is measured or stored."""
    prepared = Prepared({"a": [PASS]})
    found = Project(tmp_path, "a").gate(prepared)
    assert found.exit_code == 2
    assert found.models[0].failure
    assert '--accept "first baseline"' in found.models[0].failure.text
    assert prepared.asked == []
    assert not (tmp_path / "baselines").exists()


def test_the_baseline_is_the_stored_file(tmp_path: Path) -> None:
    """After the model's file changed it is measured against the copy that was accepted."""
    project = Project(tmp_path, "a")
    project.accept()
    (tmp_path / "a.onnx").write_text("another network")
    prepared = Prepared({"a": [PASS]})
    assert project.gate(prepared).exit_code == 0
    assert prepared.asked[0][2].read_text() == "network a"
    assert prepared.asked[0][2].is_relative_to(tmp_path / "baselines" / "files")


def test_the_baseline_of_a_torch_network_is_its_whole_folder(tmp_path: Path) -> None:
    """With artifact.json, without which it cannot be loaded."""
    project, names = Project(tmp_path, "a"), {*FORMS["torch"].files, ARTIFACT_FILE}
    (tmp_path / "latency.toml").write_text('runtime = "torch"\n[[model]]\nname = "a"\nfile = "net"\n')
    (tmp_path / "net").mkdir()
    for name in names:
        (tmp_path / "net" / name).write_text(name)
    assert project.gate(Prepared({"a": [PASS]}, runtime="torch"), accept="first").exit_code == 0
    prepared = Prepared({"a": [PASS]}, runtime="torch")
    assert project.gate(prepared).exit_code == 0
    assert {path.name for path in prepared.asked[0][2].iterdir()} == names


def test_a_rejected_candidate_never_becomes_the_baseline(tmp_path: Path) -> None:
    """A FAIL leaves the store as it is but for the history."""
    project = Project(tmp_path, "a")
    project.accept()
    before = (tmp_path / "baselines" / "baselines.jsonl").read_bytes()
    (tmp_path / "a.onnx").write_text("slower network")
    assert project.gate(Prepared({"a": [FAIL]})).exit_code == 1
    assert (tmp_path / "baselines" / "baselines.jsonl").read_bytes() == before
    assert len(list((tmp_path / "baselines" / "files").iterdir())) == 1
    (history,) = (tmp_path / "baselines" / "history").glob("a-cpu-gate-*.jsonl")
    assert [json.loads(line)["verdict"] for line in history.read_text().splitlines()] == ["PASS", "FAIL"]


def test_an_accepted_slowdown_is_recorded_with_its_reason(tmp_path: Path) -> None:
    """The exit code is 0, the verdict stays, and the next candidate is measured against the new file."""
    project = Project(tmp_path, "a")
    project.accept()
    (tmp_path / "a.onnx").write_text("slower network")
    prepared = Prepared({"a": [FAIL]})
    found = project.gate(prepared, accept="wider stem")
    assert (found.exit_code, found.models[0].verdict) == (0, "FAIL")
    assert [question.other_sizes for _, question, _ in prepared.asked] == [True]  # it may take smaller images
    current = project.store.baselines()["a"]
    assert current.reason == "wider stem"
    assert project.store.file(current).read_text() == "slower network"


def test_verdicts_of_several_models_give_the_worst_exit_code(tmp_path: Path) -> None:
    """A slowdown is not hidden by another model that could not be judged."""
    project = Project(tmp_path, "a", "b", "c")
    project.accept()
    found = project.gate(Prepared({"a": [SHORT], "b": [FAIL], "c": [PASS]}))
    assert [each.exit_code for each in found.models] == [3, 1, 0]
    assert found.exit_code == 1


def test_a_model_that_cannot_be_measured_stops_no_other(tmp_path: Path) -> None:
    """Wrong outputs and a lost device are told beside the verdicts of the others."""
    project = Project(tmp_path, "a", "b", "c")
    project.accept()
    found = project.gate(Prepared({"a": [OutputsError("wrong")], "b": [DeviceError("gone")], "c": [PASS]}))
    assert [each.exit_code for each in found.models] == [6, 5, 0]
    assert found.exit_code == 6
    assert found.models[2].verdict == "PASS"


@pytest.mark.parametrize(
    ("prepared", "named"),
    [
        (Prepared({"a": [PASS]}, threads=2), "threads: 1 when accepted, 2 now"),
        (Prepared({"a": [PASS]}, version="1.32.0"), "runtime version: '1.31.1' when accepted, '1.32.0' now"),
        (
            Prepared({"a": [PASS]}, machine={**MACHINE, "cpu_model": "another"}),
            "cpu_model: 'a processor' when accepted",
        ),
    ],
)
def test_other_terms_are_incomparable(tmp_path: Path, prepared: Prepared, named: str) -> None:
    """Threads, version of the runtime and processor are named, with what to do."""
    project = Project(tmp_path, "a")
    project.accept()
    found = project.gate(prepared)
    assert found.exit_code == 4
    assert named in found.models[0].reasons[0].text
    assert "--accept" in found.models[0].reasons[0].text


def test_any_machine_allows_another_processor(tmp_path: Path) -> None:
    """Both files are measured there anyway."""
    project = Project(tmp_path, "a")
    project.accept()
    prepared = Prepared({"a": [PASS]}, machine={**MACHINE, "cpu_model": "another"})
    assert project.gate(prepared, any_machine=True).exit_code == 0


def test_retry_measures_again_for_twice_as_long(tmp_path: Path) -> None:
    """Twice at most; each try costs its share of the error rate."""
    project = Project(tmp_path, "a", "b")
    project.accept()
    prepared = Prepared({"a": [SHORT, SHORT, SHORT], "b": [SHORT, PASS]})
    found = project.gate(prepared, policy="retry")
    assert [each.attempts for each in found.models] == [3, 2]
    assert [question.budget_s for name, question, _ in prepared.asked if name == "a"] == [30, 60, 120]
    assert {question.comparisons for _, question, _ in prepared.asked} == {6}
    assert found.exit_code == 3


@pytest.mark.parametrize(("policy", "code"), [("report", 3), ("pass", 0), ("fail", 1)])
def test_policy_decides_what_inconclusive_ends_with(tmp_path: Path, policy: str, code: int) -> None:
    """The verdict stays INCONCLUSIVE."""
    project = Project(tmp_path, "a")
    project.accept()
    found = project.gate(Prepared({"a": [SHORT]}), policy=policy)
    assert (found.exit_code, found.models[0].verdict) == (code, "INCONCLUSIVE")


def test_holm_finds_more_than_each_test_at_its_share(tmp_path: Path) -> None:
    """With 0.0001 found already, 0.02 stands against what is left of 0.025; alone among two it would not."""
    project = Project(tmp_path, "a", "b")
    project.accept()
    found = project.gate(Prepared({"a": [FAIL], "b": [("INCONCLUSIVE", 0.02)]}))
    assert [each.verdict for each in found.models] == ["FAIL", "FAIL"]
    assert found.models[1].reasons[0].code == "holm"
    alone = project.gate(Prepared({"a": [PASS], "b": [("INCONCLUSIVE", 0.02)]}))
    assert [each.verdict for each in alone.models] == ["PASS", "INCONCLUSIVE"]


def test_drift_is_judged_by_the_series_to_the_first_file(tmp_path: Path) -> None:
    """The reference stays when other files are accepted; a step that lasts fails, a single measurement does not."""
    project = Project(tmp_path, "a")
    project.accept()
    (tmp_path / "a.onnx").write_text("newer network")
    project.accept("newer")
    codes = []
    for number in range(16):
        prepared = Prepared({"a": [PASS]}, ratio=1.0 + 0.001 * (number % 3) + (0.03 if number >= 8 else 0.0))
        codes.append(project.gate(prepared, drift=True).exit_code)
        assert prepared.asked[0][2].read_text() == "network a"
    assert codes[:9] == [0] * 9
    assert codes[-1] == 1


def test_a_new_reference_starts_the_series_anew(tmp_path: Path) -> None:
    """It is asked for by name."""
    project = Project(tmp_path, "a")
    project.accept()
    (tmp_path / "a.onnx").write_text("newer network")
    project.accept("newer", refreeze=True)
    prepared = Prepared({"a": [PASS]})
    found = project.gate(prepared, drift=True)
    assert prepared.asked[0][2].read_text() == "newer network"
    assert found.models[0].drift
    assert found.models[0].drift.points == 1

"""The raw samples of a measurement: kept, read back, and never compared on unequal terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.results.measurement import (
    MUST_MATCH,
    Block,
    Conditions,
    Measurement,
    SamplingPlan,
    SessionSamples,
    SubjectSamples,
    load_measurement,
    machine_digest,
    save_measurement,
    term_differences,
)

if TYPE_CHECKING:
    from pathlib import Path

FINGERPRINT = {name: f"this {name}" for name in MUST_MATCH} | {"kernel": "6.1"}


def subject(label: str, rounds: int = 2, **fields: Any) -> SubjectSamples:  # noqa: ANN401
    """Return a subject with one session of equal rounds."""
    block = Block(order=0, wall_ns=(3, 4), cpu_ns=(3, 3), preemptions=0)
    session = SessionSamples(load_ns=7, first_ns=5, warmup=(block,), rounds=(block,) * rounds)
    content = {
        "label": label,
        "runtime": "onnxruntime",
        "runtime_version": "1.0",
        "options": {"threads": "1"},
        "digest": label,
        "input_shapes": {"image": (1, 3, 8, 8)},
        "threads": 1,
        "fingerprint": FINGERPRINT,
        "sessions": (session,),
    }
    return SubjectSamples.model_validate({**content, **fields})


def measurement(**fields: Any) -> Measurement:  # noqa: ANN401
    """Return a measurement of two subjects."""
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "batch": 1,
        "seed": 0,
        "in_force": {"nice": 0},
        "plan": SamplingPlan(budget_s=1),
        "seconds": 1.0,
        "stopped": "budget",
        "conditions": (Conditions(load=0.5),),
        "subjects": (subject("a"), subject("b")),
    }
    return Measurement.model_validate({**content, **fields})


def test_saved_measurement_reads_back_equal(tmp_path: Path) -> None:
    """What was saved is loaded unchanged, and no partial file stays."""
    path = tmp_path / "measurement.json"
    save_measurement(measurement(), path)
    assert load_measurement(path) == measurement()
    assert [file.name for file in tmp_path.iterdir()] == ["measurement.json"]


def test_missing_measurement_is_an_input_error(tmp_path: Path) -> None:
    """A file that is not there is named in the message."""
    with pytest.raises(InputError, match=r"nothing\.json does not exist"):
        load_measurement(tmp_path / "nothing.json")


def test_other_schema_version_is_an_input_error(tmp_path: Path) -> None:
    """A file of an older schema version is refused with the field that is wrong."""
    path = tmp_path / "measurement.json"
    path.write_text(measurement().model_dump_json().replace('"schema_version":2', '"schema_version":1'))
    with pytest.raises(InputError, match="schema_version"):
        load_measurement(path)


def test_truncated_file_is_an_input_error(tmp_path: Path) -> None:
    """A file that ends too early is refused."""
    path = tmp_path / "measurement.json"
    path.write_text(measurement().model_dump_json()[:100])
    with pytest.raises(InputError, match=r"is damaged.*measurement\.json of schema version 2"):
        load_measurement(path)


def test_block_needs_both_clocks_for_each_inference() -> None:
    """A block with fewer CPU times than wall times is refused."""
    with pytest.raises(ValidationError, match="2 wall times and 1 CPU times"):
        Block(order=0, wall_ns=(1, 2), cpu_ns=(1,), preemptions=0)


def test_subjects_need_the_same_rounds() -> None:
    """Subjects whose rounds cannot be paired are refused."""
    with pytest.raises(ValidationError, match="differ in their rounds"):
        measurement(subjects=(subject("a"), subject("b", rounds=3)))


def test_baseline_is_the_first_subject_of_the_runtime() -> None:
    """Every runtime has its own baseline."""
    subjects = (subject("a"), subject("a", runtime="openvino"), subject("b", runtime="openvino"), subject("b"))
    assert [measurement(subjects=subjects).baseline(index) for index in range(4)] == [0, 1, 1, 0]


def two(**fields: Any) -> Measurement:  # noqa: ANN401
    """Return a measurement whose second subject has these fields instead of the first's."""
    return measurement(subjects=(subject("a"), subject("b", **fields)))


def test_same_machine_is_comparable_whatever_its_kernel() -> None:
    """A field that need not match keeps nobody from comparing."""
    assert term_differences(two(fingerprint={**FINGERPRINT, "kernel": "6.2"})) == ()


@pytest.mark.parametrize("name", MUST_MATCH)
def test_other_machine_is_told(name: str) -> None:
    """Each field that must match is named with both values when it does not."""
    found = term_differences(two(fingerprint={**FINGERPRINT, name: "that"}))
    assert found == (f"{name}: 'this {name}', 'that'",)


def test_all_differences_are_listed() -> None:
    """Threads, shapes, runtime, version and options count as well, and all are told at once."""
    other = two(
        threads=2,
        input_shapes={"image": (4, 3, 8, 8)},
        runtime="openvino",
        runtime_version="2.0",
        options={"threads": "2", "hint": "LATENCY"},
    )
    assert [line.split(":")[0] for line in term_differences(other)] == [
        "threads",
        "input shapes",
        "runtime",
        "runtime version",
        "runtime option hint",
        "runtime option threads",
    ]


def test_names_of_inputs_do_not_count() -> None:
    """The same sizes under another name are the same work."""
    assert term_differences(two(input_shapes={"pixels": (1, 3, 8, 8)})) == ()


def test_between_runtimes_runtime_and_options_may_differ() -> None:
    """A comparison of two runtimes still needs one machine and equal threads."""
    other = two(runtime="openvino", runtime_version="9", options={"hint": "LATENCY"}, threads=2)
    assert term_differences(other, between_runtimes=True) == ("threads: 1, 2",)


def test_digest_of_a_machine_depends_on_what_must_match_and_on_nothing_else() -> None:
    """Another kernel is the same machine; another instruction set is not."""
    assert machine_digest({**FINGERPRINT, "kernel": "another"}) == machine_digest(FINGERPRINT)
    assert machine_digest({**FINGERPRINT, "isa": ["something"]}) != machine_digest(FINGERPRINT)


@pytest.mark.parametrize(("inference_ns", "size"), [(0, 16), (100, 16), (1_000_000, 10), (4_000_000, 3), (10**9, 3)])
def test_block_size_is_ten_milliseconds_within_limits(inference_ns: int, size: int) -> None:
    """A block lasts about 10 ms, and has 3 to 16 inferences."""
    assert SamplingPlan(budget_s=1).block_size(inference_ns) == size


def test_plan_with_minimum_above_maximum_is_refused() -> None:
    """There cannot be at least nine rounds and at most eight."""
    with pytest.raises(ValidationError, match="exceeds its maximum"):
        SamplingPlan(budget_s=1, min_rounds=9, max_rounds=8)


@pytest.mark.parametrize(
    ("budget_s", "looks"),
    [
        (0.1, (4,)),
        (2.4, (4,)),
        (3.0, (4, 5)),
        (6.0, (4, 6, 9, 10)),
        (30.0, (4, 6, 9, 14, 21, 32, 48, 50)),
    ],
)
def test_samples_are_looked_at_after_half_as_many_sessions_again(budget_s: float, looks: tuple[int, ...]) -> None:
    """Looks grow with what was measured, the last session always has one, and `looks` counts them."""
    plan = SamplingPlan(budget_s=budget_s)
    assert plan.looks_after == looks
    assert plan.looks == len(looks)
    assert plan.max_sessions == looks[-1]

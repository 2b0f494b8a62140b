"""Sizes that files leave open: what a task may say of them, and samples at other sizes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.open_sizes import OpenSizes, checked_sizes, sizes_text
from pipeline.data import task_identity
from pipeline.tasks.config import ClassificationTask, task_settings

INPUTS = (
    TensorSpec(name="tokens", shape=(1, 12), dtype="int64"),
    TensorSpec(name="mask", shape=(1, 12), dtype="int64"),
    TensorSpec(name="image", shape=(1, 3, 8, 6)),
)
LENGTH = {"length": {"tokens": 1, "mask": 1}}
OPEN = OpenSizes({**LENGTH, "height": {"image": 2}}, ({"length": 32, "height": 8}, {"length": 12, "height": 8}))


def test_sizes_of_inputs() -> None:
    """By axis and by name: those of samples, those that are tried beside them, and the shapes at each."""
    assert OPEN.of_input("mask") == {1: "length"}
    assert OPEN.own(INPUTS) == {"length": 12, "height": 8}
    assert OPEN.others(INPUTS) == [{"length": 32, "height": 8}]
    assert OpenSizes(LENGTH).others(INPUTS) == [{"length": 24}]
    assert OpenSizes().others(INPUTS) == []
    shapes = OPEN.shapes(INPUTS, OPEN.timed[0])
    assert shapes == {"tokens": (1, 32), "mask": (1, 32), "image": (1, 3, 8, 6)}
    assert sizes_text(OPEN.timed[0]) == "length 32, height 8"


def test_samples_are_cut_or_repeated() -> None:
    """The type stays, and so do inputs without an open size."""
    feeds = {"tokens": np.arange(6).reshape(2, 3), "other": np.ones((2, 4), np.float32)}
    found = OpenSizes({"length": {"tokens": 1}}).resized(feeds, {"length": 5})
    assert found["tokens"].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]
    assert found["tokens"].dtype == np.int64
    assert found["other"] is not None
    assert found["other"].shape == (2, 4)


@pytest.mark.parametrize(
    ("dynamic", "timed", "message"),
    [
        ({"length": {"words": 1}}, (), "task: dynamic.length names the input words, allowed: tokens, mask, image"),
        ({"length": {"tokens": 2}}, (), "dynamic.length.tokens: found 2, allowed: its axes from 1 to 1"),
        ({"length": {"tokens": "1"}}, (), "dynamic.length.tokens: found 1, allowed"),
        ({"batch": {"tokens": 1}}, (), "found the name 'batch', allowed: a word such as length"),
        ({"a size": {"tokens": 1}}, (), "found the name 'a size'"),
        (
            {"side": {"image": 2, "tokens": 1}},
            (),
            "the samples have the sizes [8, 12] there, allowed: one of 2 or more",
        ),
        ([1], (), "task: dynamic: found [1], allowed: a mapping"),
        (LENGTH, ({"height": 3},), "timed: found {'height': 3}, allowed: a size for length"),
        (LENGTH, ({"length": 0},), "timed: found {'length': 0}"),
        ({}, ({"length": 3},), "task: found timed without dynamic, allowed: both, or no timed"),
        ({"a": {"tokens": 1}, "b": {"tokens": 1}}, (), "dynamic names axis 1 of tokens twice, allowed: one name"),
        (LENGTH, ({"length": 3}, {"length": 3}), "task: timed has {'length': 3} twice, allowed: each once"),
    ],
)
def test_what_does_not_fit_the_inputs_is_refused(dynamic: Any, timed: Any, message: str) -> None:  # noqa: ANN401
    """With the key, what was found, and what is allowed."""
    with pytest.raises(InputError, match=re.escape(message)):
        checked_sizes(dynamic, timed, INPUTS, "task")


def test_only_open_sizes_tell_tasks_apart() -> None:
    """A task without them has the key that it had; the sizes that are timed are no part of what is trained."""
    plain = ClassificationTask(kind="classification")
    opened = ClassificationTask(kind="classification", dynamic=LENGTH, timed=({"length": 32},))
    assert task_settings(plain) == {"kind": "classification"}
    assert task_identity(opened) == {"task": {"kind": "classification", "dynamic": LENGTH}}

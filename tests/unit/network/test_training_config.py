"""How a recipe says what the learning rate does."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.network.training_config import TrainingConfig


@pytest.mark.parametrize(
    ("given", "rewound"),
    [
        ({}, 0.0),
        ({"schedule": "constant", "warmup": 2}, 0.0),
        ({"schedule": "one_cycle"}, 0.0),
        ({"schedule": "rewind"}, 0.5),
        ({"schedule": "rewind", "from_fraction": 0.9, "warmup": 0}, 0.9),
    ],
)
def test_what_is_repeated(given: dict[str, Any], rewound: float) -> None:
    """Rewinding repeats the second half unless it is told otherwise; what a configuration writes can be read again."""
    config = TrainingConfig.model_validate({"epochs": 4, **given})
    assert config.rewound == rewound
    assert TrainingConfig.model_validate(config.model_dump()) == config


def test_configurations_without_a_schedule_are_what_they_were() -> None:
    """So that results in a store are found again."""
    assert not {"schedule", "from_fraction"} & set(TrainingConfig(epochs=4).model_dump())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"from_fraction": 0.5}, "found from_fraction with schedule cosine, allowed: with schedule rewind"),
        ({"schedule": "rewind", "warmup": 2}, "found warmup 2 with schedule rewind, which has none"),
        ({"schedule": "one_cycle", "warmup": 3}, "found warmup 3 with schedule one_cycle, which has none"),
        ({"schedule": "rewind", "from_fraction": 1}, "less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    """A key that would change nothing is no key to accept."""
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate({"epochs": 4, **given})

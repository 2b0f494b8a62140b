"""Metrics agree with the libraries that people know, on cases whose values are written here, and at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.tasks.image_quality import peak_ratio, structural_similarity
from pipeline.tasks.kinds import open_kit
from pipeline.tasks.scores import rank_correlation
from tests.optional import require

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LETTERS = ("_", " ", "a", "b", "c")


def wave(*shape: int, pitch: float = 1.7) -> np.ndarray[Any, Any]:
    """Return numbers from 0 to 1 that look random and are the same everywhere."""
    return (np.sin(pitch * np.arange(np.prod(shape)) ** 1.3) * 1000 % 1).reshape(shape)


def whole(count: int, *shape: int, pitch: float = 1.7) -> np.ndarray[Any, Any]:
    """Return integers from 0 to count - 1."""
    return (wave(*shape, pitch=pitch) * count).astype(np.int64)


def score(kit: Any, name: str, predictions: Any, targets: Any) -> float:  # noqa: ANN401 - any kit
    """Return a metric by its name."""
    metric = next(each for each in kit.metrics if each.name == name)
    return metric.compute([metric.statistic(*pair) for pair in zip(predictions, targets, strict=True)])


CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "classification": ({"classes": 4}, whole(4, 40), whole(4, 40, pitch=2.3)),
    "multilabel": ({"classes": 3}, wave(30, 3).round(1), whole(2, 30, 3, pitch=2.3)),
    "segmentation": ({"classes": 3}, whole(3, 2, 8, 8), np.where(wave(2, 8, 8) > 0.9, 255, whole(3, 2, 8, 8, pitch=2))),
    "regression": ({}, wave(20, 3), wave(20, 3, pitch=2.3)),
    "token": ({"classes": TAGS}, whole(5, 6, 12), whole(5, 6, 12, pitch=2.3)),
    "embedding": ({"recall_at": (1, 3)}, wave(20, 5) - 0.5, wave(20, 5) * 0.4 + wave(20, 5, pitch=2.3) - 0.7),
}

#: What libraries give for the case of the kind: scikit-learn 1.9.1 where no other is named.
REFERENCES = [
    ("classification", "accuracy", 0.325),  # accuracy_score
    ("classification", "balanced_accuracy", 0.367981283422),  # balanced_accuracy_score
    ("classification", "f1", 0.324404761905),  # f1_score(average='macro')
    ("multilabel", "mAP", 0.616404212735),  # average_precision_score
    ("multilabel", "mAP_micro", 0.590652805494),  # the same, micro
    ("multilabel", "f1_macro", 0.576388888889),  # f1_score
    ("multilabel", "f1_micro", 0.582524271845),  # the same, micro
    ("segmentation", "mIoU", 0.194346382342),  # jaccard_score(average='macro')
    ("segmentation", "pixel_accuracy", 0.330508474576),  # accuracy_score
    ("regression", "MAE", 0.341393412103),  # mean_absolute_error
    ("regression", "RMSE", 0.405607650098),  # root_mean_squared_error
    ("token", "accuracy", 0.208333333333),  # accuracy_score
    ("token", "span_f1", 0.215053763441),  # seqeval 1.2.2, f1_score
    ("embedding", "cosine", 0.30297989562),  # cosine_similarity
    ("embedding", "recall@1", 0.1),  # top_k_accuracy_score
    ("embedding", "recall@3", 0.35),  # top_k_accuracy_score
    ("embedding", "Spearman", 0.168544397643),  # SciPy 1.17.1, spearmanr
]


@pytest.mark.parametrize(("kind", "metric", "expected"), REFERENCES)
def test_metrics_are_those_of_the_libraries(kind: str, metric: str, expected: float) -> None:
    """To the last digits that are written here."""
    settings, predictions, targets = CASES[kind]
    assert score(open_kit(kind, **settings), metric, predictions, targets) == pytest.approx(expected, abs=1e-9)


def test_images_are_compared_as_scikit_image_does() -> None:
    """`structural_similarity` with its options for Wang et al. 2004, and `peak_signal_noise_ratio`; both 0.26.0."""
    one, other = wave(3, 16, 13), np.clip(wave(3, 16, 13) + 0.2 * wave(3, 16, 13, pitch=2.3), 0, 1)
    assert structural_similarity(one, other, 1.0) == pytest.approx(0.957369219105, abs=1e-9)
    assert peak_ratio(one, other, 1.0) == pytest.approx(19.1988146705, abs=1e-9)
    assert (structural_similarity(one, one, 1.0), peak_ratio(one, one, 1.0)) == (1.0, 100.0)
    with pytest.raises(ValueError, match="11 x 11"):
        structural_similarity(one[:, :10], other[:, :10], 1.0)


def test_error_rates_are_those_of_jiwer() -> None:
    """`wer` and `cer` of jiwer 4.0.0 over both sentences together; no words at all are all wrong."""
    kit = open_kit("token", classes=LETTERS, decoding="ctc")
    targets, predictions = [[2, 3, 1, 4, 2, 1, 3], [4, 4, 1, 2]], [[2, 3, 1, 4, 1, 1, 3, 3], [4, 1, 2]]
    assert score(kit, "WER", predictions, targets) == pytest.approx(0.6)
    assert score(kit, "CER", predictions, targets) == pytest.approx(0.272727272727)
    assert [(metric.name, metric.higher_is_better) for metric in kit.metrics] == [("WER", False), ("CER", False)]
    assert score(kit, "WER", [[]], [[2, 1, 3]]) == 1.0


def test_random_cases_agree_with_scikit_learn() -> None:
    """Ties, classes that do not occur, and few samples; 300 such cases agreed to 5e-16 with the libraries above."""
    require("sklearn")
    from sklearn import metrics  # noqa: PLC0415 - not everywhere

    random = np.random.default_rng(3)
    for _ in range(20):
        classes, count = int(random.integers(3, 6)), int(random.integers(3, 30))
        predicted, true = random.integers(0, classes, (2, count))
        kit = open_kit("classification", classes=classes)
        present = np.unique(true)
        f1 = metrics.f1_score(true, predicted, average="macro", labels=present)
        assert score(kit, "f1", predicted, true) == pytest.approx(f1)
        labels, ranked = (random.random((count, classes)) < 0.4).astype(int), random.random((count, classes)).round(1)
        labels[0] = 1
        kit = open_kit("multilabel", classes=classes)
        assert score(kit, "mAP", ranked, labels) == pytest.approx(metrics.average_precision_score(labels, ranked))
        micro = metrics.average_precision_score(labels, ranked, average="micro")
        assert score(kit, "mAP_micro", ranked, labels) == pytest.approx(micro)


def test_depth_within_a_quarter() -> None:
    """delta1: ratios below 1.25 both ways; what has no positive target does not count."""
    kit = open_kit("regression", layout="dense", metric="delta1")
    target, found = np.array([[1.0, 2.0, 4.0, 0.0]]), np.array([[1.2, 1.5, 4.0, 9.0]])
    assert kit.metrics[0].name == "delta1"
    assert score(kit, "delta1", [found], [target]) == pytest.approx(2 / 3)


def test_constant_ranks_have_no_correlation() -> None:
    """As in SciPy it is NaN."""
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4)))


@pytest.mark.parametrize("kind", sorted(CASES))
def test_metrics_say_what_they_are(kind: str) -> None:
    """Names once, the wanted one first, means of floats, and a score for any part of the samples."""
    settings, predictions, targets = CASES[kind]
    names = [metric.name for metric in open_kit(kind, **settings).metrics]
    assert len(set(names)) == len(names)
    for name in names:
        metric = open_kit(kind, **settings, metric=name).metrics[0]
        statistics = [metric.statistic(*pair) for pair in zip(predictions, targets, strict=True)]
        assert metric.name == name
        assert metric.range[0] <= metric.compute(statistics[:3] * 2) <= metric.range[1]
        assert not metric.is_mean or metric.compute(statistics) == pytest.approx(np.mean(statistics))
    with pytest.raises(ValueError, match=f"allowed: {names[0]}"):
        open_kit(kind, **settings, metric="fame")

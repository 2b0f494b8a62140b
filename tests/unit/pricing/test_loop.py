"""The closed loop, measured greedy and what each move has bought, on times by formula: no clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from pipeline.compress.pruning.allocation import Choices
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError
from pipeline.pricing.greedy import Measures, greedy_descent
from pipeline.pricing.loop import AIM, CORRECTIONS, LOWEST, LoopResult, LoopStep, confirmed_ratio, meet_target
from pipeline.pricing.moves import Moved, bought_nothing, told_moves, without_each_move, without_moves
from pipeline.pricing.relative import RelativeModel
from pipeline.pricing.search import LatencySearch
from pipeline.results.run import Interval
from tests.unit.pricing.fake_timer import ratio_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence


def width_of(state: NetworkState) -> int:
    """Return the width of the only group."""
    return state.widths.get("a", 1000)


def widest(step: int) -> Callable[[float, NetworkState | None], NetworkState]:
    """Return a choice of the widest multiple of `step` that a thousandth of the time each allows."""

    def choose(share: float, _near: NetworkState | None) -> NetworkState:
        width = int(share * 1000 + 1e-6) // step * step
        if width <= 0:
            raise InputError("nothing is left")
        return NetworkState({"a": width})

    return choose


def predicted(state: NetworkState) -> float:
    """Return a share in proportion to the width."""
    return width_of(state) / 1000


def exact(value: float) -> Interval:
    """Return a measured value."""
    return Interval(value=value, low=value, high=value)


@pytest.mark.parametrize(
    ("truth", "steps"),
    [
        (lambda share: share, 1),
        (lambda share: 1.3 * share, 2),
        (lambda share: 0.2 + 0.8 * share, 4),
        (lambda share: share**0.5, 6),
    ],
)
def test_a_target_is_met_after_some_corrections(truth: Callable[[float], float], steps: int) -> None:
    """The aim is divided by what the last prediction was wrong by."""
    found = meet_target(0.5, widest(1), predicted, lambda state: exact(truth(predicted(state))))
    assert found.met
    assert len(found.steps) <= steps
    assert LOWEST * 0.5 <= found.chosen.measured.value <= 0.5
    assert found.steps[0].predicted == pytest.approx(AIM * 0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("step", "below", "above"),
    [(100, 0.4, None), (300, 0.3, None), (600, None, None)],
)
def test_steps_that_are_too_coarse_give_the_nearest(step: int, below: float | None, above: float | None) -> None:
    """A state that comes again ends the search; an aim that no state has is refused when it is the first."""
    if below is None:
        with pytest.raises(InputError, match="nothing is left"):
            meet_target(0.5, widest(step), predicted, lambda state: exact(predicted(state)))
        return
    found = meet_target(0.5, widest(step), predicted, lambda state: exact(predicted(state)))
    assert (found.met, found.below, found.above) == (False, below, above)
    assert len(found.steps) <= CORRECTIONS


def test_the_nearest_on_both_sides_are_told() -> None:
    """Of states that miss, one that is no slower than the target is taken, else the fastest."""
    slow = meet_target(0.5, widest(100), predicted, lambda state: exact(predicted(state) + 0.15))
    assert (slow.met, slow.above, slow.below) == (False, pytest.approx(0.55), pytest.approx(0.45))
    never = meet_target(0.5, widest(100), predicted, lambda _: exact(0.9))
    assert (never.below, never.above, never.chosen.measured.value) == (None, 0.9, 0.9)


GRIDS = {name: [*range(8, 72, 8)] for name in "abc"}
WORTH = {"a": 1.0, "b": 3.0, "c": 0.2}


def cliffs(state: NetworkState) -> float:
    """Return a time that no product of sizes gives: widths whose number of granules is odd take half as long again."""
    widths = {name: state.widths.get(name, 64) // 8 for name in GRIDS}
    return 0.5 + sum(width * (1.5 if width % 2 else 1.0) for width in widths.values()) - 2.0 * len(state.dropped)


class Wrong:
    """A model that knows nothing of cliffs and thinks that one group costs nothing."""

    name = "milliseconds"

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return a time in proportion to two of the groups."""
        return sum(widths.get(name, 64) for name in "ab") / 8 - 0.1 * len(dropped) + 1

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> Any:  # noqa: ANN401 - an array
        """Return it for some widths of one group."""
        return np.array([self.cost({**state.widths, group: width}, state.dropped) for width in widths])


CHOICES = Choices(
    GRIDS,
    {name: WORTH[name] * (1 - np.array(grid) / 64) ** 2 for name, grid in GRIDS.items()},
    {"block": 0.01},
    {"block": frozenset("c")},
)


def descended(factor: float, shipped: float = 1.0) -> tuple[Any, list[int]]:
    """Return what measured greedy finds, and how many states were measured in each round."""
    whole, rounds = cliffs(NetworkState()), list[int]()

    def gains(state: NetworkState, others: Mapping[str, NetworkState]) -> dict[str, Any]:
        rounds.append(len(others))
        return {name: ratio_of(cliffs(other) / cliffs(state)) for name, other in others.items()}

    def ratio(state: NetworkState) -> Interval:
        return exact(shipped * cliffs(state) / whole)

    model = RelativeModel(cast("Any", Wrong()), NetworkState())
    return greedy_descent(factor, 1.0, CHOICES, model, Measures(gains, ratio)), rounds


@pytest.mark.parametrize("factor", [0.8, 0.6, 0.4])
def test_measured_moves_reach_a_target_that_no_model_foretells(factor: float) -> None:
    """No step ends on a cliff where the next wider or narrower width is faster; the best block leaves first."""
    found, rounds = descended(factor)
    assert found.chosen.measured.value <= factor
    assert found.chosen.state.dropped == {"block"}
    assert 0 < len(rounds) <= 48
    assert max(rounds) <= 8
    widths = {name: found.chosen.state.widths.get(name, 64) // 8 for name in "ab"}
    assert widths["b"] >= widths["a"]


def test_files_that_ship_slower_than_probes_are_narrowed_further() -> None:
    """What decides is the file that ships."""
    found, _ = descended(0.6, shipped=1.1)
    assert found.chosen.measured.value <= 0.6
    assert len(found.steps) > 1


def test_moves_end_where_nothing_is_left() -> None:
    """The fastest state is told."""
    found, _ = descended(0.01)
    assert not found.met
    assert found.below is None
    assert found.chosen.state.dropped == {"block"}


STATE = NetworkState({"a": 8, "b": 16}, frozenset({"block"}))


def test_each_move_is_taken_back_alone() -> None:
    """Also blocks."""
    assert without_each_move(STATE) == {
        "a": NetworkState({"b": 16}, frozenset({"block"})),
        "b": NetworkState({"a": 8}, frozenset({"block"})),
        "block": NetworkState({"a": 8, "b": 16}),
    }
    assert without_moves(STATE, ["a", "block"]) == NetworkState({"b": 16})


@pytest.mark.parametrize(("gain", "error", "nothing"), [(0.1, 0.01, False), (0.01, 0.01, True), (-0.1, 0.01, True)])
def test_what_is_within_the_noise_has_bought_nothing(gain: float, error: float, *, nothing: bool) -> None:
    """A move counts when its gain is clear of its error."""
    assert bought_nothing({"a": ratio_of(np.exp(gain), error)}) == (["a"] if nothing else [])


def test_moves_are_told_with_what_they_saved() -> None:
    """Those that save most first; measured where they were."""

    class Linear(Wrong):
        def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
            return sum(widths.get(name, 64) for name in "ab") / 8 - 2 * len(dropped)

    moved = Moved(STATE, {"a": 64, "b": 64}, frozenset("b"))
    time = Linear().cost(STATE.widths, STATE.dropped)
    told = told_moves(moved, cast("Any", Linear()), {"a": ratio_of(2.0)}, {"block": 0.5})
    assert [(move.name, move.kind, move.before, move.after) for move in told] == [
        ("b", "heads", 64, 16),
        ("block", "block", 1, 0),
        ("a", "channels", 64, 8),
    ]
    measured = told[2].measured_ms
    assert measured is not None
    assert measured.value == pytest.approx(-time)
    assert measured.low < measured.value < measured.high
    assert [move.predicted_ms for move in told] == [-6, -2, -7]
    assert [move.damage for move in told] == [None, 0.5, None]


def test_groups_that_left_with_their_block_are_no_moves() -> None:
    """A group was narrowed in one step of a schedule, and its block dropped in a later one."""
    network = SimpleNamespace(inside={"block": frozenset("c")})
    search = cast("Any", SimpleNamespace(pricer=SimpleNamespace(network=network)))
    base = NetworkState({"a": 8, "c": 16})
    assert LatencySearch._merged(search, base, NetworkState({"b": 4})) == NetworkState({"a": 8, "c": 16, "b": 4})
    assert LatencySearch._merged(search, base, NetworkState({"a": 4}, frozenset({"block"}))) == NetworkState(
        {"a": 4}, frozenset({"block"})
    )


@pytest.mark.parametrize(("again", "kept"), [(0.47, False), (0.7, True), (0.45, True)])
def test_useless_moves_stay_where_the_target_is_missed_by_more_without_them(again: float, *, kept: bool) -> None:
    """Both results miss a target of half the time: one that is over it is not taken instead of one below."""
    state, without = NetworkState({"a": 450, "b": 1}), NetworkState({"a": 450})
    gains = {"a": ratio_of(2.0), "b": ratio_of(1.0)}
    pricer = SimpleNamespace(network=SimpleNamespace(template=True, inside={}), gains=lambda *_: gains)
    search = cast("Any", SimpleNamespace(pricer=pricer, trusted=True, _merged=lambda _, state: state))
    used: list[object] = []
    step = SimpleNamespace(base=NetworkState(), network=SimpleNamespace(rules=SimpleNamespace(allocation="knapsack")))
    choice: Any = SimpleNamespace(
        step=step, without=lambda _: "before", use=used.append, share=predicted, state_at=lambda *_: without
    )
    first = LoopStep(state, 0.4, exact(0.46))
    found = LoopResult(first, (first,), met=False)
    tidied, undone, _ = LatencySearch._tidied(search, found, 0.5, choice, lambda _: exact(again))
    assert not tidied.met
    assert (tidied.chosen.state == state) is kept
    assert bool(used) is kept
    assert undone == (() if kept else ("b",))


@pytest.mark.parametrize(
    ("values", "expected"), [((0.49, 0.53), 0.5096), ((0.49, 0.50), 0.4950), ((0.47, 0.49), 0.47), ((0.51, 0.49), 0.51)]
)
def test_what_meets_the_target_is_measured_again(values: tuple[float, float], expected: float) -> None:
    """Only what lies in the range is, and the mean of both counts, which may lie outside again."""
    measured = iter(values)
    assert confirmed_ratio(0.5, lambda: ratio_of(next(measured))).ratio.value == pytest.approx(expected, abs=1e-4)
    assert len(list(measured)) == (expected == values[0])


def test_two_measurements_are_weighted_by_what_is_known_of_each() -> None:
    """Three times the error is a ninth of the weight; what they differ by bounds the error of their mean from below."""
    pooled = ratio_of(0.50, 0.01).pooled_with(ratio_of(0.51, 0.03))
    centre = (9 * np.log(0.50) + np.log(0.51)) / 10
    assert pooled.log.centre == pytest.approx(centre)
    assert pooled.ratio.value == pytest.approx(np.exp(centre))
    assert pooled.log.error == pytest.approx(max((1 / 0.01**2 + 1 / 0.03**2) ** -0.5, np.log(0.51 / 0.50) / 2))
    assert pooled.ratio.high / pooled.ratio.value == pytest.approx(np.exp(2 * pooled.log.error))
    apart = ratio_of(0.50, 0.01).pooled_with(ratio_of(0.60, 0.01))
    assert apart.log.error == pytest.approx(np.log(1.2) / 2)

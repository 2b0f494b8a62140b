"""Where groups are drawn: no two on one lane at once, neighbours in different colours."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.inspection.network_rails import COLOURS, Span, colours, lanes

ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=4).map(lambda rows: Span(tuple(sorted(rows)), ()))
SPANS = st.lists(ROWS, max_size=20).map(lambda spans: {str(index): span for index, span in enumerate(spans)})


@given(spans=SPANS, most=st.integers(0, 12))
def test_no_two_groups_share_a_lane_at_once(spans: dict[str, Span], most: int) -> None:
    """Every group has a lane below the limit or none, and none only where all lanes are taken."""
    found = lanes(spans, most)
    assert found.keys() == spans.keys()
    assert all(lane is None or 0 <= lane < most for lane in found.values())
    for one, other in combinations(spans, 2):
        assert found[one] is None or found[one] != found[other] or not spans[one].meets(spans[other])
    for name in (name for name, lane in found.items() if lane is None):
        beside = {found[other] for other in spans if found[other] is not None and spans[name].meets(spans[other])}
        assert len(beside) == most


def test_trunk_is_on_the_left() -> None:
    """The longest group has the first lane; the second takes the next where it meets it."""
    found = lanes({"short": Span((1,), (2,)), "trunk": Span((0, 9), (5,)), "later": Span((10,), (11,))}, 4)
    assert found == {"trunk": 0, "short": 1, "later": 0}


@given(spans=st.lists(ROWS, max_size=COLOURS).map(lambda spans: {str(i): span for i, span in enumerate(spans)}))
def test_few_groups_have_colours_of_their_own(spans: dict[str, Span]) -> None:
    """As long as there are colours, no two groups share one."""
    assert len(set(colours(spans).values())) == len(spans)


def test_neighbours_differ_when_colours_come_again() -> None:
    """In a chain of many groups every colour is used and two that touch never have the same."""
    chain = {str(index): Span((index,), (index + 1,)) for index in range(50)}
    found = colours(chain)
    assert set(found.values()) == set(range(COLOURS))
    assert all(found[str(index)] != found[str(index + 1)] for index in range(49))

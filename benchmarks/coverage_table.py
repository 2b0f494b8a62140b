"""Writes the page of coverage.py from its records."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Record = dict[str, Any]
    Records = dict[str, Record]

#: Share of the operations that half of the channels may leave; more is explained.
EXPECTED = 0.35
#: Differences that float32 explains, relative to scale.
EQUAL = 1e-4
#: Statistics that the check of Torch-Pruning takes over the kept channels too.
FOLLOWED = frozenset({"layer_norm", "group_norm", "rms_norm"})
LARGE = 20e6
PHASES = ("capture", "trace", "plan", "prune", "certificate", "onnx", "openvino")
VERDICTS = ("exact", "outputs differ", "unchecked", "forward fails", "prune fails", "time limit")
HEAD = """\
# Coverage

Written by `coverage.py table`; README.md has the protocol. Half of the channels of every group are removed. "Exact":
the outputs equal those of the original with the removed channels zeroed, in float64, to 1e-9 of their scale.
"""


def page(engine: Records, peer: Records, versions: dict[str, str]) -> str:
    """Return the page in Markdown."""
    for name, record in peer.items():
        record["outcome"] = outcome(record, engine.get(name, {}))
    records = list(engine.values())
    states = {record.get("source") for record in records}
    parts = [HEAD, f"{', '.join(f'{name} {number}' for name, number in versions.items())}.\n"]
    if len(states) > 1:
        parts.append(f"These are records of {len(states)} states of the engine.\n")
    parts += [*totals(engine, peer), *costs(records), *not_exact(records), *above(records)]
    parts += [*exports(records), *unknown(records), *families(engine, peer)]
    return "\n".join(parts) + "\n"


def outcome(record: Record, ours: Record) -> str:
    """Return the verdict on Torch-Pruning's result; unchecked where the network takes statistics no check follows."""
    if record["status"] == "limit":
        return "time limit"
    if record["status"] != "done":
        return "prune fails" if record.get("phase") == "prune" else "forward fails"
    verdict = record["verdict"]
    if verdict == "outputs differ" and ours.get("statistics", {}).keys() - FOLLOWED:
        return "unchecked"
    return "outputs differ" if verdict == "output shape changed" else str(verdict)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a table."""
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    yield from (f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)
    yield ""


def totals(engine: Records, peer: Records) -> Iterator[str]:
    """Yield both tools by source."""
    sources = Counter(name.partition("/")[0] for name in engine)
    yield "## Totals\n"
    head = ["source", "networks", "exact", f"of them <= {EXPECTED}x operations", "median operations", "in place"]
    head += ["rewritten", "exported", "onnxruntime equal", "OpenVINO equal"]
    yield from table(head, [ours(source, of(engine, source)) for source in sources] + [ours("all", [*engine.values()])])
    if peer:
        yield "Torch-Pruning on the same networks:\n"
        rows = [theirs(source, of(peer, source)) for source in sources]
        rows.append(theirs("all", list(peer.values())))
        head = ["source", "networks", VERDICTS[0], f"of them <= {EXPECTED}x operations", "median operations"]
        yield from table([*head, *VERDICTS[1:]], rows)


def of(records: Records, source: str) -> list[Record]:
    """Return the records of one source."""
    return [record for name, record in records.items() if name.partition("/")[0] == source]


def ours(label: str, records: list[Record]) -> list[object]:
    """Return the row of the engine."""
    exact = [record for record in records if exactly(record)]
    files = [record["export"] for record in exact if isinstance(record.get("export"), dict)]
    routes = Counter(record["route"] for record in exact)
    equal = [sum(file.get(runtime, 1.0) <= EQUAL for file in files) for runtime in ("onnxruntime", "openvino")]
    below = sum(share(record) <= EXPECTED for record in exact)
    ways = (routes["in place"], routes["rewritten"])
    return [label, len(records), len(exact), below, middle(exact), *ways, len(files), *equal]


def theirs(label: str, records: list[Record]) -> list[object]:
    """Return the row of Torch-Pruning."""
    counts = Counter(record["outcome"] for record in records)
    exact = [record for record in records if record["outcome"] == "exact"]
    below = sum(share(record) <= EXPECTED for record in exact)
    rest = (counts[verdict] for verdict in VERDICTS[1:])
    return [label, len(records), len(exact), below, middle(exact), *rest]


def exactly(record: Record) -> bool:
    """Say whether the network was pruned and certified."""
    return bool(record.get("verdict") == "exact")


def share(record: Record) -> float:
    """Return the operations that are left, as a fraction."""
    return float(record["macs"]["after"] / record["macs"]["before"])


def middle(records: list[Record]) -> str:
    """Write the median of the operations that are left."""
    return f"{statistics.median(map(share, records)):.3f}x" if records else ""


def costs(records: list[Record]) -> Iterator[str]:
    """Yield seconds of each phase, and memory."""
    done = [record for record in records if exactly(record)]
    if not done:
        return
    yield "## Time and memory\n"
    yield "CPU seconds on one thread; `certificate` is a part of `prune`.\n"
    rows = []
    for phase in PHASES:
        seconds = sorted(record["seconds"][phase] for record in done if phase in record["seconds"])
        worst = max(done, key=lambda record: record["seconds"].get(phase, 0.0))["model"]
        if seconds:
            rows.append((phase, *(f"{quantile(seconds, q):.1f}" for q in (0.5, 0.9, 1.0)), worst))
    yield from table(("phase", "median", "90 %", "largest", "largest of"), rows)
    large = [record["peak_parameters"] for record in done if record["parameter_bytes"] >= LARGE]
    if large:
        yield (
            f"Peak memory above the loaded network, in units of its parameters: median {statistics.median(large):.1f}, "
            f"largest {max(large):.1f} ({len(large)} networks of {LARGE / 1e6:.0f} MB or more; smaller ones are all "
            "overhead).\n"
        )
    noted = sum(bool(record["statistics"]) for record in done)
    yield f"In {noted} networks norms, means or softmax now go over fewer channels; their certificates say so.\n"


def quantile(ordered: list[float], fraction: float) -> float:
    """Return the value at a fraction of the way through a sorted list."""
    return ordered[round(fraction * (len(ordered) - 1))]


def not_exact(records: list[Record]) -> Iterator[str]:
    """Yield what was not pruned."""
    rows = [
        (record["model"], record["status"], record.get("phase", ""), plain(record.get("error", "")))
        for record in records
        if not exactly(record)
    ]
    if rows:
        yield "## Not pruned\n"
        yield from table(("network", "end", "phase", "error"), rows)


def plain(text: str) -> str:
    """Make a text safe for a cell."""
    return " ".join(text.split()).replace("|", "\\|")[:200]


def above(records: list[Record]) -> Iterator[str]:
    """Yield the networks that keep more than is expected, and why."""
    kept = [record for record in records if exactly(record) and share(record) > EXPECTED]
    if kept:
        yield f"## More than {EXPECTED}x of the operations left\n"
        yield "Share of the operations in layers that keep at least some channels for this reason.\n"
        rows = [(record["model"], f"{share(record):.3f}x", why(record)) for record in sorted(kept, key=share)]
        yield from table(("network", "operations", "reasons"), rows)


def why(record: Record) -> str:
    """Write the reasons that matter; where they explain less than is missing, that channels are tied or few."""
    frozen = record["frozen"]
    found = [f"{reason} ({100 * part:.0f} %)" for reason, part in frozen.items() if part >= 0.005]  # noqa: PLR2004 (rounds to 0 %)
    if sum(frozen.values()) < share(record) - EXPECTED:
        found.append("channels tied to each other by a shuffle, or narrow groups")
    return "; ".join(found)


def exports(records: list[Record]) -> Iterator[str]:
    """Yield the exports that failed or differ, beside those of the unpruned network."""
    rows = [
        (record["model"], written(record["export"]), written(record.get("original_export", {})))
        for record in records
        if isinstance(record.get("export"), dict)
        and ("error" in record["export"] or max(numbers(record["export"])) > EQUAL)
    ]
    if rows:
        yield "## Exports that fail or differ\n"
        yield "Largest difference from torch over the scale of the output; `plain` is without graph optimisations.\n"
        yield from table(("network", "pruned", "unpruned"), rows)


def numbers(found: Record) -> list[float]:
    """Return the differences."""
    return [value for value in found.values() if isinstance(value, float)]


def written(found: Record) -> str:
    """Write what came out of an export."""
    parts = [f"{key.replace('_', ' ')} {value:.0e}" for key, value in found.items() if isinstance(value, float)]
    return "; ".join(
        [*parts, *([f"{found.get('step', 'export')}: {plain(found['error'])}"] if "error" in found else [])]
    )


def unknown(records: list[Record]) -> Iterator[str]:
    """Yield the operators without a rule."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for reason in record.get("unknown", []):
            found[reason].append(record["model"])
    if found:
        yield "## Operators without a rule\n"
        rows = [(plain(reason), len(names), ", ".join(names[:3])) for reason, names in sorted(found.items())]
        yield from table(("reason", "networks", "such as"), rows)


def families(engine: Records, peer: Records) -> Iterator[str]:
    """Yield one row for each family."""
    grouped: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for name, record in engine.items():
        grouped[name.partition("/")[0], record["family"]].append(record)
    yield "## Families\n"
    rows = []
    for (source, family), records in sorted(grouped.items()):
        exact = [record for record in records if exactly(record)]
        outcomes = [peer[record["model"]]["outcome"] if record["model"] in peer else "not run" for record in records]
        counted: Callable[[list[str]], str] = lambda given: ", ".join(  # noqa: E731
            f"{name} {count}" if count > 1 else name for name, count in Counter(given).items()
        )
        routes = counted([record["route"] for record in exact])
        rows.append((f"{source} {family}", len(records), len(exact), routes, middle(exact), counted(outcomes)))
    yield from table(("family", "networks", "exact", "route", "median operations", "Torch-Pruning"), rows)

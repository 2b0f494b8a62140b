"""Writes the part of coverage.md about networks of other packages, one row each, failures with their reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coverage_table import EQUAL, plain, share, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    Record = dict[str, Any]

#: Largest error of a certificate, relative to the output's scale.
CERTIFIED = 1e-9
#: Signal-to-noise ratio that an int8 file is expected to have.
NEAR_DB = 15.0
STEPS = ("prune", "train", "export", "run", "int8", "int8_run")
INTRODUCTION = """\
## Networks of other packages

Built with random weights at small sizes, called as their users call them. "Exact": half of the channels of every group
left, certified to 1e-9. "Train": the pruned network takes one step in training mode. "ONNX": the largest difference of
the pruned network's file from torch over batches of 1 and 3, in onnxruntime and OpenVINO; "fixed" where no file takes
any batch, so that each batch has its own. "Int8": signal-to-noise ratio against torch, the lowest over both runtimes
and batches; weights and images are random, which is no guide to accuracy. Where OpenVINO alone is far away it computes
the file otherwise than onnxruntime does: the export stage refuses such an IR. Failures are below the table.
"""


def others(records: dict[str, Record], versions: dict[str, str]) -> Iterator[str]:
    """Yield the section."""
    found = list(records.values())
    if not found:
        return
    yield INTRODUCTION
    yield f"{', '.join(f'{name} {number}' for name, number in versions.items())}.\n"
    yield from table(("networks", *counted(found)), [(len(found), *counted(found).values())])
    head = ("network", "of", "exact", "operations", "route", "train", "ONNX", "batch", "int8, dB")
    yield from table(head, [row(each) for each in sorted(found, key=lambda each: (each["family"], each["model"]))])
    failed = [(each["model"], step, plain(text)) for each in found for step, text in failures(each)]
    if failed:
        yield "What failed, or differs by more than it may:\n"
        yield from table(("network", "step", "reason"), failed)


def counted(records: list[Record]) -> dict[str, int]:
    """Return how many networks passed each step."""
    return {
        "exact": sum(exact(each) for each in records),
        "trained": sum("train" in each for each in records),
        "exported": sum("batch" in each and "export_error" not in each for each in records),
        "equal in both runtimes, batch 1 and 3": sum(worst(each) <= EQUAL for each in records),
        "int8 runs in both, batch 1 and 3": sum("int8_run" in each for each in records),
    }


def exact(record: Record) -> bool:
    """Say whether the network was pruned with a certificate."""
    return bool(record.get("verdict") == "exact" and record["certificate"] <= CERTIFIED)


def worst(record: Record) -> float:
    """Return the largest difference of the exported files; infinite without any."""
    return max(record["run"].values()) if record.get("run") else float("inf")


def row(record: Record) -> tuple[object, ...]:
    """Return the cells of one network."""
    done = exact(record)
    return (
        record["model"],
        record["family"],
        f"{record['certificate']:.0e}" if done else record.get("verdict", "no"),
        f"{share(record):.2f}x" if "macs" in record and record["macs"]["before"] else "",
        record.get("route", "") if done else "",
        "yes" if "train" in record else "no",
        f"{worst(record):.0e}" if "run" in record else "no",
        record.get("batch", ""),
        f"{min(record['int8_run'].values()):.0f}" if "int8_run" in record else "no",
    )


def failures(record: Record) -> Iterator[tuple[str, str]]:
    """Yield each step that failed with its reason, and files that differ."""
    if record["status"] != "done":
        yield str(record.get("phase", "")), f"{record['status']} {record.get('error', '')}"
    for step in STEPS:
        if f"{step}_error" in record:
            yield step, record[f"{step}_error"]
    if "run" in record and worst(record) > EQUAL:
        yield "ONNX", "; ".join(f"batch {each}: {value:.0e}" for each, value in record["run"].items() if value > EQUAL)
    if "int8_run" in record and min(record["int8_run"].values()) < NEAR_DB:
        yield "int8", "; ".join(f"batch {each}: {value:.0f} dB" for each, value in record["int8_run"].items())

"""The page of combinations.py: every chain with its accuracy, bytes and times, and the two orders of each pair."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD = """\
# Which methods go together

ResNet-20 on Fashion-MNIST. Each chain applies its methods in the order given, with one epoch of training on 15,000
images behind each (SGD at 0.05, distilled from the original), and ends in int8: quantized as it is (PTQ), or trained
one epoch more as it ships (QAT). Everything is that of the int8 file: accuracy on the 5,000 validation images in both
runtimes, bytes once packed (`secateur pack`, graph and names included) against those of the original float ONNX file,
time against that file's, interleaved on one thread with its 95 % interval, and the share of weights that are zero in
the file. One seed, but for the whole chain; differences below 0.5 points of single seeds mean nothing.

    .venv/bin/python benchmarks/combinations.py run
    .venv/bin/python benchmarks/combinations.py table
"""
COLUMNS = ("chain", "ORT", "OpenVINO", "packed", "smaller", "time in ORT", "time in OpenVINO", "MACs left", "zeros")
TITLES = {"ptq": "Quantized as it is", "qat": "Trained as it ships"}


def page(records: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown: a table for each way to int8, then the orders of each pair, then refusals."""
    measured = [each for each in records if "refused" not in each]
    if not measured:
        return "\n".join([HEAD, "Nothing has been measured yet.", *refusals(records), ""])
    last = measured[-1]
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    said = (
        f"The original has {100 * last['original']:.2f} % in {last['raw']:,} bytes. On {last['machine']['cpu_model']} "
        f"({', '.join(last['machine']['isa'])}); {versions}."
    )
    tables = [
        line
        for precision, title in TITLES.items()
        if (found := [each for each in measured if each["precision"] == precision])
        for line in ("", f"## {title}", "", *chain_table(found))
    ]
    return "\n".join([HEAD, said, *tables, *orders(measured), *refusals(records), ""])


def chain_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of chains, the seeds of one in one row."""
    by_chain: dict[str, list[dict[str, Any]]] = {}
    for each in records:
        by_chain.setdefault(chain_name(each), []).append(each)
    rows = [[name, *cells(found)] for name, found in by_chain.items()]
    return [row(COLUMNS), row(["---", *["--:"] * (len(COLUMNS) - 1)]), *map(row, rows)]


def cells(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a row says of the seeds of a chain."""
    packed = [each["packed"]["onnxruntime"] for each in found]
    return [
        *(spread([100 * each["accuracy"][name] for each in found]) for name in ("onnxruntime", "openvino")),
        f"{mean(packed):,.0f}",
        f"{mean(each['raw'] / size for each, size in zip(found, packed, strict=True)):.1f}x",
        *(time_cell(found, name) for name in ("onnxruntime", "openvino")),
        f"{100 * mean(each['macs'][1] / each['macs'][0] for each in found):.0f} %",
        zeros_cell(found),
    ]


def spread(values: Sequence[float]) -> str:
    """Return a mean in percent, with the deviation of several seeds."""
    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f} ({len(values)} seeds)" if len(values) > 1 else "")


def time_cell(found: Sequence[dict[str, Any]], runtime: str) -> str:
    """Return time over that of the original float file; of several seeds the range."""
    ratios = [each["ratio"][runtime] for each in found]
    if len(ratios) == 1:
        return f"{ratios[0]['value']:.3f}x [{ratios[0]['low']:.3f}, {ratios[0]['high']:.3f}]"
    values = [each["value"] for each in ratios]
    return f"{mean(values):.3f}x ({min(values):.3f} to {max(values):.3f})"


def zeros_cell(found: Sequence[dict[str, Any]]) -> str:
    """Return the share of the weights that are zero in the int8 files."""
    counts = [each["kept"]["sparsity"] for each in found if each["kept"].get("sparsity")]
    return f"{100 * mean(each['zeros'] / each['weights'] for each in counts):.1f} %" if counts else "-"


def orders(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the two orders of each pair beside each other."""
    by = {(tuple(each["chain"]), each["precision"]): each for each in records}
    pairs = [key for key in by if key[0] < key[0][::-1] and (key[0][::-1], key[1]) in by]
    if not pairs:
        return
    yield from ("", "## One order or the other", "")
    yield from (row(["pair", "int8", "first way", "other way"]), row(["---", "---", "--:", "--:"]))
    for chain, precision in pairs:
        both = [by[order, precision] for order in (chain, chain[::-1])]
        told = [f"{chain_name(each)}: {cells([each])[0]} %, {each['packed']['onnxruntime']:,} bytes" for each in both]
        yield row([" + ".join(chain), precision.upper(), *told])


def refusals(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the chains that are refused, with the reason as it is told."""
    found = {chain_name(each): each["refused"] for each in records if "refused" in each}
    if found:
        yield from ("", "## Refused", "")
        yield from (f"- {name}: {reason}" for name, reason in found.items())


def chain_name(record: dict[str, Any]) -> str:
    """Return how a row calls a chain."""
    return ", ".join(record["chain"]) or "int8 alone"


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"

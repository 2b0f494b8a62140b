"""Does the engine prune real networks? Every network of coverage_models.yaml, each in a process of its own.

    PYTHONPATH=<packages> .venv/bin/python benchmarks/coverage.py run [--set quick] [--only NAME] [--peer torch-pruning]
    PYTHONPATH=<packages> .venv/bin/python benchmarks/coverage.py run --set others
    .venv/bin/python benchmarks/coverage.py table

`run` appends one line of JSON per network to results/coverage/ and leaves out what is there already, so that it goes on
where it was stopped; networks named with --only are always run. `table` writes coverage.md from these lines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coverage_others_table import others
from coverage_table import page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coverage_models import Entry

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "coverage"
VERSIONS = RESULTS / "versions.json"
PAGE = ROOT / "benchmarks" / "coverage.md"
ENGINE = "secateur"
PEER = "torch-pruning"
RUNTIMES = ("torch", "onnx", "onnxruntime", "openvino")
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch-pruning", "onnxruntime", "openvino")
SETS = ("all", "quick", "big")
#: Networks of packages that the engine was not made with: a set, and the name of its records.
OTHERS = "others"


def stored(tool: str) -> dict[str, dict[str, Any]]:
    """Return the last record of each network, by name."""
    file = RESULTS / f"{tool}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return {record["model"]: record for record in map(json.loads, lines)}


def store(tool: str, record: dict[str, Any]) -> None:
    """Append one record."""
    with (RESULTS / f"{tool}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def run(tool: str, wanted: str, only: Sequence[str], limit_s: int) -> None:
    """Run the tool over the networks that are asked for and have no record yet."""
    from coverage_worker import measure  # noqa: PLC0415 (the table needs none of these libraries)

    known, work, libraries = parts(tool)
    by_name = {entry.name: entry for entry in known}
    chosen = [by_name[name] for name in only if name in by_name] if only else [e for e in known if wanted in e.sets]
    if len(chosen) < len(only):
        raise SystemExit(f"Not in the list: {', '.join({*only} - {entry.name for entry in chosen})}")
    file = versions_of(tool)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(installed(libraries)), indent=1) + "\n")
    done = {} if only else stored(tool)
    todo = [entry for entry in chosen if entry.name not in done]
    if tool != PEER:
        work.warm(todo)
    for number, entry in enumerate(todo, 1):
        start = time.perf_counter()
        record = measure(partial(work.run, entry), limit_s, **described(entry))
        store(tool, {**record, "limit_s": limit_s})
        took = time.perf_counter() - start
        print(f"{number}/{len(todo)} {entry.name}: {summary(record)} ({took:.0f} s)", flush=True)


def parts(tool: str) -> tuple[Sequence[Any], Any, Sequence[str]]:
    """Return a tool's networks, the module that does the work on one, and the packages whose versions are kept."""
    if tool == OTHERS:
        import coverage_others  # noqa: PLC0415
        import coverage_others_engine  # noqa: PLC0415

        networks = coverage_others.entries()
        packages = dict.fromkeys(entry.name.partition("/")[0] for entry in networks)
        return networks, coverage_others_engine, (*RUNTIMES, *packages, "python-doctr", "open-clip-torch")
    import coverage_models  # noqa: PLC0415

    if tool == PEER:
        import coverage_peer  # noqa: PLC0415

        return coverage_models.entries(), coverage_peer, LIBRARIES
    import coverage_engine  # noqa: PLC0415

    return coverage_models.entries(), coverage_engine, LIBRARIES


def versions_of(tool: str) -> Path:
    """Return the file of the versions that a tool's records were made with."""
    return RESULTS / "others-versions.json" if tool == OTHERS else VERSIONS


def installed(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the packages that are there, with their versions."""
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            yield name, version(name)


def described(entry: Entry) -> dict[str, Any]:
    """Return what a record says about its network."""
    return {"model": entry.name, "family": entry.family, "input": list(entry.input)}


def summary(record: dict[str, Any]) -> str:
    """Say in a line what came out."""
    if record["status"] != "done":
        return f"{record['status']} in {record.get('phase')}: {record.get('error', '')}".splitlines()[0]
    if "macs" not in record:
        return "; ".join(f"{key}: {value}" for key, value in record.items() if key.endswith("_error"))
    macs = record["macs"]
    return f"{record.get('verdict', '')} macs {macs['after'] / macs['before']:.3f}"


def main() -> None:
    """Run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="prune the networks of a set")
    running.add_argument("--set", default="all", choices=(*SETS, OTHERS))
    running.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NAME", help="networks by name, run even if recorded"
    )
    running.add_argument("--peer", choices=(PEER,), help="run this tool instead of the engine")
    running.add_argument("--limit", type=int, default=120, metavar="SECONDS", help="CPU time for one network")
    commands.add_parser("table", help="write coverage.md")
    chosen = parser.parse_args()
    if chosen.command == "run":
        run(OTHERS if chosen.set == OTHERS else chosen.peer or ENGINE, chosen.set, chosen.only, chosen.limit)
    else:
        versions = [json.loads(versions_of(tool).read_text()) for tool in (ENGINE, OTHERS)]
        text = page(stored(ENGINE), stored(PEER), versions[0])
        PAGE.write_text(text + "\n" + "\n".join(others(stored(OTHERS), versions[1])))
        print(PAGE)


if __name__ == "__main__":
    main()

"""Does the engine prune real networks? Every network of coverage_models.yaml, each in a process of its own.

    PYTHONPATH=<packages> .venv/bin/python benchmarks/coverage.py run [--set quick] [--only NAME] [--peer torch-pruning]
    .venv/bin/python benchmarks/coverage.py table

`run` appends one line of JSON per network to results/coverage/ and leaves out what is there already, so that it goes on
where it was stopped; networks named with --only are always run. `table` writes coverage.md from these lines.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coverage_table import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coverage_models import Entry

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "coverage"
VERSIONS = RESULTS / "versions.json"
PAGE = ROOT / "benchmarks" / "coverage.md"
ENGINE = "secateur"
PEER = "torch-pruning"
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch-pruning", "onnxruntime", "openvino")
SETS = ("all", "quick", "big")


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
    import coverage_models  # noqa: PLC0415 (the table needs none of these libraries)
    from coverage_worker import measure  # noqa: PLC0415

    if tool == ENGINE:
        import coverage_engine as work  # noqa: PLC0415

        work.warm()
    else:
        import coverage_peer as work  # type: ignore[no-redef] # noqa: PLC0415
    known = coverage_models.entries()
    by_name = {entry.name: entry for entry in known}
    chosen = [by_name[name] for name in only if name in by_name] if only else [e for e in known if wanted in e.sets]
    if len(chosen) < len(only):
        raise SystemExit(f"Not in {coverage_models.LIST}: {', '.join({*only} - {entry.name for entry in chosen})}")
    VERSIONS.parent.mkdir(parents=True, exist_ok=True)
    VERSIONS.write_text(json.dumps({name: version(name) for name in LIBRARIES}, indent=1) + "\n")
    done = {} if only else stored(tool)
    todo = [entry for entry in chosen if entry.name not in done]
    for number, entry in enumerate(todo, 1):
        start = time.perf_counter()
        record = measure(partial(work.run, entry), limit_s, **described(entry))
        store(tool, {**record, "limit_s": limit_s})
        took = time.perf_counter() - start
        print(f"{number}/{len(todo)} {entry.name}: {summary(record)} ({took:.0f} s)", flush=True)


def described(entry: Entry) -> dict[str, Any]:
    """Return what a record says about its network."""
    return {"model": entry.name, "family": entry.family, "input": list(entry.input)}


def summary(record: dict[str, Any]) -> str:
    """Say in a line what came out."""
    if record["status"] != "done":
        return f"{record['status']} in {record.get('phase')}: {record.get('error', '')}".splitlines()[0]
    macs = record["macs"]
    return f"{record.get('verdict', '')} macs {macs['after'] / macs['before']:.3f}"


def main() -> None:
    """Run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="prune the networks of a set")
    running.add_argument("--set", default="all", choices=SETS)
    running.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NAME", help="networks by name, run even if recorded"
    )
    running.add_argument("--peer", choices=(PEER,), help="run this tool instead of the engine")
    running.add_argument("--limit", type=int, default=120, metavar="SECONDS", help="CPU time for one network")
    commands.add_parser("table", help="write coverage.md")
    chosen = parser.parse_args()
    if chosen.command == "run":
        run(chosen.peer or ENGINE, chosen.set, chosen.only, chosen.limit)
    else:
        PAGE.write_text(page(stored(ENGINE), stored(PEER), json.loads(VERSIONS.read_text())))
        print(PAGE)


if __name__ == "__main__":
    main()

"""How long until the command answers: fresh processes, in turns, median of wall seconds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "recipes" / "efficientnet-lite0-elpv-int8.yaml")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "secateur --help": [sys.executable, "-m", "pipeline", "--help"],
    "secateur validate": [sys.executable, "-m", "pipeline", "validate", RECIPE],
    "secateur plan": [sys.executable, "-m", "pipeline", "plan", RECIPE],
}
ROUNDS = 15


def main() -> None:
    """Time every command and print the medians as JSON."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # noqa: S603 (our own command)
            seconds[name].append(time.perf_counter() - start)
    print(json.dumps({name: round(statistics.median(values), 3) for name, values in seconds.items()}, indent=1))


if __name__ == "__main__":
    main()

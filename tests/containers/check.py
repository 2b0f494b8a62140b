"""`make image-test`: the lines of docs/containers.md, done with the engine that is there.

Exit code 77, with a line that begins with "skipped", where no engine runs images or neither base image can be had: then
nothing was tested.
"""

from __future__ import annotations

import subprocess
import sys

from tests.containers.engine import UnavailableError, find
from tests.containers.image import SKIPPED
from tests.containers.stand_in import ROOT, base_for


def main() -> int:
    """Run the tests that need an engine; returns the exit code."""
    try:
        engine = find(runs=True)
        base = base_for(engine)
        engine.told("run", "--rm", "--network", "none", *engine.run_options, base.image, "true")
    except UnavailableError as why:
        print(f"skipped: image-test ({why})")
        return SKIPPED
    command = [sys.executable, "-m", "pytest", "-m", "container", "--capture=no", "tests/containers", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

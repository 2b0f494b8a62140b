"""`make image`: builds the pipeline's image with the engine that is there, and says how large it is.

Exit code 77, with a line that begins with "skipped", where no engine works or neither base image can be had.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.containers.engine import UnavailableError, find
from tests.containers.stand_in import ROOT, base_for, default_base

if TYPE_CHECKING:
    from tests.containers.engine import Engine

SKIPPED = 77
IMAGE = "secateur"


def main() -> int:
    """Build the image; returns the exit code."""
    try:
        engine = find()
        base = base_for(engine)
    except UnavailableError as why:
        print(f"skipped: image ({why})")
        return SKIPPED
    if base.stands_in:
        print(f"{default_base()} cannot be pulled: in its place stands {base.image}, of this machine's Debian packages")
    start = time.monotonic()
    command = [engine.name, "build", "--target", "pipeline", "--tag", IMAGE, *base.options, *engine.build_options, "."]
    code = subprocess.run(command, cwd=ROOT, env=engine.variables(), check=False).returncode
    if code:
        print(f"{engine.name} could not build the image (exit code {code}): the lines above say why", file=sys.stderr)
        return code
    print(f"image {IMAGE}: {size_text(engine, IMAGE)}, of which {size_text(engine, base.image)} are {base.image}")
    print(f"built with {engine.name} in {time.monotonic() - start:.0f} s")
    return 0


def size_text(engine: Engine, image: str) -> str:
    """Return the bytes of an image for people; rounded where the engine tells them so."""
    size = engine.size(image)
    return f"{size:,} bytes" if size is not None else engine.told("images", "--format", "{{.Size}}", image)


if __name__ == "__main__":
    sys.exit(main())

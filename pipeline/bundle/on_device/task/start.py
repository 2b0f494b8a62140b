#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start the program of this name in on_device/task/, which has what this bundle can do: Python 3.9 or newer, and numpy.

python infer.py sample.npz                # what the network finds; an image where the task takes one
python infer.py --help
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = "on_device"


def load_program(name: str) -> ModuleType:
    """Load a module of on_device/task/ beside this file, without looking for anything else in this folder."""
    sys.dont_write_bytecode = True
    if PACKAGE not in sys.modules:
        start = Path(__file__).resolve().parent / PACKAGE / "__init__.py"
        spec = importlib.util.spec_from_file_location(PACKAGE, start, submodule_search_locations=[str(start.parent)])
        if spec is None or spec.loader is None:
            raise ImportError(f"{start} cannot be loaded")
        module = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACKAGE}.task.{name}")


try:
    program = load_program(Path(__file__).stem)
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"{error}; install what is missing: pip install -r requirements.txt", file=sys.stderr)
    sys.exit(5)
if __name__ == "__main__":
    sys.exit(program.main())
run = getattr(program, "run", None)

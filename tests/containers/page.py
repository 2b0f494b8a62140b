"""The lines of docs/containers.md: read, made short, and run with an engine under the name of docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tests.containers.stand_in import ROOT, Base
from tests.pages import DOCS, blocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.containers.engine import Engine

#: The folders and files that a build sends to the engine, and the Dockerfile itself.
SOURCES = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "constraints.txt", "pyproject.toml")
FOLDERS = ("models", "pipeline", "recipes")
#: Who runs the lines where the tests are root: somebody else, since root may do what a user may not.
USER = 12345


@dataclass(frozen=True)
class Call:
    """One call of the engine by a line of the page."""

    words: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Done:
    """What is there after all lines were run."""

    folder: Path
    output: str
    calls: tuple[Call, ...]
    user: int

    def call(self, *words: str) -> Call:
        """Return the one call that has all these words."""
        (found,) = [call for call in self.calls if set(words) <= set(call.words)]
        return found


def shell_blocks() -> list[str]:
    """Return the shell lines of the page on containers."""
    return [block.text for block in blocks(DOCS / "containers.md") if block.language == "sh"]


def short_form(written: list[str]) -> str:
    """Return the lines as one script: as they stand, but the recipe short, and nothing from elsewhere.

    The recipe's images are those of the package that is installed here; the bundle that ships now is the one just made.
    """
    (short,) = re.findall(r"^DEMO_SHORT := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    script = "\n".join(written)
    script = re.sub(r"^pip install .*\n", "", script, flags=re.MULTILINE)
    script = re.sub(r"^(secateur run [^#\n]*[^#\s])", rf"\1 --no-test {short}", script, flags=re.MULTILINE)
    ship = "cp work/runs/cells/bundle.tar.gz work/main.tar.gz\n"
    return re.sub(r"^(secateur compare )", rf"{ship}\1", script, flags=re.MULTILINE)


def put_programs(folder: Path, engine: Engine, base: Base, log: Path) -> None:
    """Put a `docker` in front of PATH that is this engine, and an `id` that is not root's."""
    options = {"build": [*base.options, *engine.build_options], "run": engine.run_options}
    cases = [f'{name}) shift; set -- {name} {shlex.join(words)} "$@" ;;' for name, words in options.items()]
    settings = [f"export {name}={shlex.quote(value)}" for name, value in engine.environment.items()]
    lines = ["#!/bin/bash", *settings, 'shown=("$@")', "start=$EPOCHREALTIME", 'case "$1" in', *cases, "esac"]
    lines += [f'{shlex.quote(shutil.which(engine.name) or engine.name)} "$@"', "code=$?"]
    row = f'"$start" "$EPOCHREALTIME" "${{shown[*]}}" >> {shlex.quote(str(log))}'
    lines += [rf"printf '%s\t%s\t%s\n' {row}", "exit $code"]
    put_program(folder / "docker", lines)
    if os.geteuid() == 0:
        put_program(folder / "id", ["#!/bin/sh", f"echo {USER}"])


def put_program(file: Path, lines: list[str]) -> None:
    """Write a script that can be run."""
    file.write_text("\n".join([*lines, ""]))
    file.chmod(0o755)


def put_data(work: Path) -> None:
    """Make the folder that is mounted, with the data set's package and a photo, which belongs to who runs the lines."""
    spec = find_spec("elpv_dataset")
    assert spec, "the extra `examples` is not installed"
    assert spec.submodule_search_locations
    shutil.copytree(spec.submodule_search_locations[0], work / "data" / "elpv_dataset")
    (work / "photos").mkdir()
    photo = min((work / "data" / "elpv_dataset" / "data" / "images").glob("*.png"))
    shutil.copyfile(photo, work / "photos" / "cell.png")
    if os.geteuid() == 0:
        os.chown(work, USER, USER)


def calls_of(log: Path) -> list[Call]:
    """Return the engine's calls with the seconds that each took, and print them."""
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    calls = [Call(tuple(shown.split()), float(end) - float(start)) for start, end, shown in rows]
    for call in calls:
        told = call.words[-4:] if call.words[0] == "run" else call.words
        print(f"image-test: {call.seconds:6.1f} s  docker {call.words[0]} ... {' '.join(told)}")
    return calls

"""Recipes with one to three changes that nobody would make on purpose: each is read, or refused in words."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.errors import InputError
from pipeline.core.store import Store
from pipeline.recipe import load_recipe
from pipeline.run.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.torture.tally import Tally

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LIMIT_S = 20
VALUES = [
    *("", "null", "~", ".nan", "-.inf", "1e400", "1" + "0" * 400, "-1", "0", "1e-320", "0x1F", "1_000", "12:30:45"),
    *(
        "true",
        "no",
        "[]",
        "{}",
        "[[[[]]]]",
        "{a: {a: {a: 1}}}",
        "'",
        '"',
        "|",
        ">",
        "*nowhere",
        "&a [*a]",
        "!!binary aGk=",
    ),
    *(
        "!!python/object:os.system [ls]",
        "<<: 1",
        "2026-11-29",
        "../../../../etc/passwd",
        "/dev/zero",
        "/",
        ".",
        "~root",
    ),
    *(
        "x" * 10_000,
        "\\ud800",
        '"\\0"',
        "\u202e",
        "\ufeff",
        "é" * 300,
        "9223372036854775808",
        "0.1.2",
        "50%",
        "-5pt",
        "1e5x",
    ),
]
CHARACTERS = "\x00\x07\x1b\t\r\n\u2028\ufeff\u202e{}[]&*!|>%@`#:-,'\"\\é💥 "


def delete(lines: list[str], seeded: random.Random) -> None:
    """Remove a line."""
    del lines[seeded.randrange(len(lines))]


def repeat(lines: list[str], seeded: random.Random) -> None:
    """Repeat a line somewhere."""
    lines.insert(seeded.randrange(len(lines)), seeded.choice(lines))


def indent(lines: list[str], seeded: random.Random) -> None:
    """Move a line to the right or left."""
    at = seeded.randrange(len(lines))
    lines[at] = seeded.choice([f"  {lines[at]}", f"\t{lines[at]}", lines[at].lstrip()])


def value(lines: list[str], seeded: random.Random) -> None:
    """Give a key another value."""
    at = seeded.randrange(len(lines))
    found = list(re.finditer(r": *([^,{}\[\]]+)", lines[at]))
    if found:
        spot = seeded.choice(found)
        lines[at] = lines[at][: spot.start(1)] + seeded.choice(VALUES) + lines[at][spot.end(1) :]


def name(lines: list[str], seeded: random.Random) -> None:
    """Give a value another key."""
    at = seeded.randrange(len(lines))
    new = seeded.choice(["kind", "stages", "format", "x", "", "1", "null", "<<", "__class__", "model_config"])
    lines[at] = re.sub(r"\w+(?=:)", new, lines[at], count=1)


def character(lines: list[str], seeded: random.Random) -> None:
    """Put a character anywhere."""
    at = seeded.randrange(len(lines))
    spot = seeded.randint(0, len(lines[at]))
    lines[at] = lines[at][:spot] + seeded.choice(CHARACTERS) + lines[at][spot:]


def cut(lines: list[str], seeded: random.Random) -> None:
    """End in the middle."""
    del lines[seeded.randrange(1, len(lines)) :]
    lines[-1] = lines[-1][: seeded.randint(0, len(lines[-1]))]


CHANGES: list[Callable[[list[str], random.Random], None]] = [
    delete,
    repeat,
    indent,
    value,
    value,
    value,
    name,
    character,
    cut,
]


def mutated(seed: int) -> bytes:
    """Return a recipe that comes with the project, changed."""
    seeded = random.Random(seed)
    lines = seeded.choice(RECIPES).read_text().replace("../models", str(ROOT / "models")).splitlines()
    for _ in range(seeded.randint(1, 3)):
        seeded.choice(CHANGES)(lines, seeded)
        lines = lines or [""]
    content = "\n".join(lines).encode(errors="surrogatepass")
    if seeded.random() < 0.05:
        content = content[:40] + bytes(seeded.randrange(256) for _ in range(8)) + content[40:]
    return content


def outcome(act: Callable[[], object], *named: str) -> str:
    """Return what is wrong with how a call ends: right are a result, and an error of the user's that names a thing."""

    def late(*_: Any) -> None:  # noqa: ANN401 - a signal's
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    began = time.process_time()
    try:
        act()
    except InputError as error:
        text = str(error)
        if not any(word in text for word in named):
            return f"the message names none of {named}: {text[:300]}"
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
            return f"a control character in the message: {text[:300]!r}"
    except BaseException as error:  # noqa: BLE001 - that none comes is what is looked for
        return f"{type(error).__name__}: {error}"[:400]
    finally:
        signal.alarm(0)
    seconds = time.process_time() - began
    return f"it took {seconds:.1f} s" if seconds > LIMIT_S / 2 else ""


def planned(path: Path, *overrides: str) -> None:
    """Read a recipe and plan it."""
    make_plan(load_recipe(path, overrides), Store(path.parent / "store"), 0)


@pytest.mark.slow
def test_mutated_recipes(tally: Tally, tmp_path: Path) -> None:
    """A plan, or every problem with the file's name."""
    for seed in range(1000 if tally.full else 50):
        path = tmp_path / "mutated.yaml"
        path.write_bytes(mutated(seed))
        tally.add("mutated recipe", seed, outcome(lambda path=path: planned(path), path.name, "data."))


@pytest.mark.slow
def test_overrides(tally: Tally) -> None:
    """The same of `--set`: each value for keys of every kind."""
    keys = (
        "seed",
        "name",
        "stages.prune.ratio",
        "stages.9.kind",
        "data.size",
        "model.arguments",
        "budget.latency",
        "stages",
        "",
    )
    recipe = ROOT / "recipes" / "efficientnet-lite0-elpv-int8.yaml"
    for number, text in enumerate(VALUES[:: 1 if tally.full else 12]):
        for key in keys:
            change = f"{key}={text}"
            tally.add(
                "value of --set",
                (number, change[:80]),
                outcome(lambda change=change: load_recipe(recipe, [change]), recipe.name, "--set"),
            )

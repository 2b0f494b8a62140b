"""Ways to damage a file: its bytes, what kind of thing lies there, and, where it is JSON, single values."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    Way = Callable[[Path, random.Random], None]

VALUES: list[Any] = [
    None,
    -1,
    0,
    1e308,
    10**40,
    float("nan"),
    float("inf"),
    True,
    "",
    "x" * 5000,
    "\x1b[31m",
    "../../x",
    [],
    {},
    [[]],
]


def rewrite(change: Callable[[bytes, random.Random], bytes]) -> Way:
    """Return the way that changes the bytes of a file."""
    return lambda path, seeded: _replace(path, change(path.read_bytes(), seeded))


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # others may have links to it
    path.write_bytes(content)


def flip(content: bytes, seeded: random.Random) -> bytes:
    """Flip up to 8 bits."""
    changed = bytearray(content or b"\0")
    for _ in range(seeded.randint(1, 8)):
        changed[seeded.randrange(len(changed))] ^= 1 << seeded.randrange(8)
    return bytes(changed)


def other(make: Callable[[Path], object]) -> Way:
    """Return the way that puts something else where the file was."""

    def put(path: Path, _: random.Random) -> None:
        path.unlink()
        make(path)

    return put


def sparse(path: Path) -> None:
    """Make a file of 300 MB of zeros that takes no space."""
    path.touch()
    os.truncate(path, 300 << 20)


BYTES: dict[str, Way] = {
    "empty": rewrite(lambda _content, _seeded: b""),
    "cut": rewrite(lambda content, seeded: content[: seeded.randrange(max(1, len(content)))]),
    "flipped": rewrite(flip),
    "flipped again": rewrite(flip),
    "doubled": rewrite(lambda content, _: content + content),
    "noise": rewrite(lambda _, seeded: seeded.randbytes(4000)),
    "no text": rewrite(lambda content, _: b"\xff\xfe\x00" + content),
    "text": rewrite(lambda _content, _seeded: b"not what you think\n"),
    "huge": other(sparse),
    "missing": other(lambda _: None),
    "a folder": other(lambda path: path.mkdir()),
    "a dangling link": other(lambda path: path.symlink_to("nowhere")),
    "a link to itself": other(lambda path: path.symlink_to(path.name)),
    "a pipe": other(os.mkfifo),
    "a device": other(lambda path: path.symlink_to("/dev/zero")),
}


def leaf(path: Path, seeded: random.Random) -> None:
    """Give one key or place another value, anywhere in the file."""
    tree = json.loads(path.read_bytes())
    spots: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            spots.append((node, key))
            if isinstance(child, (dict, list)):
                stack.append(child)
    node, key = seeded.choice(spots)
    if isinstance(node, dict) and seeded.random() < 0.3:
        del node[key]
    else:
        node[key] = seeded.choice(VALUES)
    _replace(path, json.dumps(tree).encode())


JSON: dict[str, Way] = {
    **BYTES,
    **{
        f"json {text[:6]}": rewrite(lambda _content, _seeded, text=text: text.encode())
        for text in ("[]", "null", "3", '"x"', "{}")
    },
    "deep": rewrite(lambda _content, _seeded: b"[" * 100_000),
    **{f"a value {number}": leaf for number in range(12)},
}


def fresh(source: Path, target: Path) -> Path:
    """Copy a folder with its links, so that the copy may be damaged, and return the copy."""
    shutil.copytree(source, target, symlinks=True)
    return target

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check the bundle in this folder, then run its network on the samples: Python 3.9 or newer, numpy, and one runtime.

    python verify.py
    python verify.py --runtime openvino --digest sha256:... --public-key minisign.pub --json

In this order: the folder holds exactly the files of manifest.json, at their sizes; SHA256SUMS, manifest.json and the
files agree; the signature, where a public key is given; the digest of SHA256SUMS, where one is given; and the network
computes what samples/expected.json says (self_test.py). Other code of the bundle is loaded only after all checksums
were found right. That finds every change of a file. Who rewrote the whole bundle is found by the signature or by the
digest alone, with a verify.py that did not come with it: `secateur verify` has its own.

Exit codes: 0 all good, 2 refused, 5 numpy or the runtime is missing, 6 wrong outputs.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # nothing of this folder is imported before it was checked, not even by the name of a library

import argparse
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import stat
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

MANIFEST, SUMS, SIGNATURE = "manifest.json", "SHA256SUMS", "SHA256SUMS.minisig"
EXPECTED = "samples/expected.json"
#: What every bundle has, beside the files of its network.
REQUIRED = (
    *("infer.py", "self_test.py", "verify.py", "preprocess.json", "labels.txt", EXPECTED, "requirements.txt"),
    *("sbom.cdx.json", "MODEL_CARD.md", "recipe.yaml"),
)
RUNTIMES = ("onnxruntime", "openvino")
#: How the name of a packed model file ends; what unpacks it, in a bundle of images and of another task.
PACKED, UNPACKS = ".packed", ("unpack.py", "on_device/unpack.py")
#: Plain ASCII with `/` between folders, so that a name means the same on every system; none leads out of the folder.
NAME = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?(/[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?)*")
LONGEST_NAME = 100
DIGEST = re.compile(r"[0-9a-f]{64}")
#: Bytes at most: of manifest.json, SHA256SUMS and samples/expected.json each, of a signature, of all files together.
TEXT_BYTES, SIGNATURE_BYTES, ALL_BYTES = 8 << 20, 4096, 4 << 30
FILES_AT_MOST = 1000
#: Bytecode in there would be run in the place of infer.py.
CACHE = "__pycache__"
MISSING_RUNTIME = 5


class Rejected(Exception):
    """The bundle is not what it says; the text names the file, what was found, and what was expected."""

    def __init__(self, text: str, exit_code: int = 2) -> None:
        """Keep the exit code that stands for the kind of reason."""
        super().__init__(text)
        self.exit_code = exit_code


@dataclass
class Verification:
    """What a verification found. `outputs` and `differences` are by sample, `max_abs` is the largest difference."""

    verified: bool = False
    digest: str = ""
    checks: list[dict[str, str]] = field(default_factory=list)
    outputs: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    runtime: str = ""
    version: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    max_abs: float | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""

    def passed(self, name: str, text: str) -> None:
        """Add a check that was passed."""
        self.checks.append({"name": name, "text": text})


@dataclass(frozen=True)
class VerifyOptions:
    """What a person asks of a verification; without a runtime that of the manifest runs the samples."""

    runtime: str | None = None
    threads: int = 1
    public_key: str | None = None
    digest: str | None = None


def verify(folder: Path, wanted: VerifyOptions, found: Verification) -> None:
    """Check the bundle in `folder` and run its samples; `found` is filled while it goes on. Raises Rejected."""
    manifest = check_files(folder, found)
    check_origin(folder, wanted, found)
    self_test(folder, manifest, wanted, found)
    found.verified = True


def check_files(folder: Path, found: Verification) -> dict[str, Any]:
    """Check which files there are, and their content; return the manifest."""
    manifest = read_manifest(read_file(folder, MANIFEST, TEXT_BYTES))
    total = check_structure(folder, manifest)
    found.passed("structure", f"{len(manifest['files'])} files, {total:,} bytes, and no others")
    found.digest = check_sums(folder, manifest)
    found.passed("checksums", f"every file matches {MANIFEST} and {SUMS}")
    return manifest


def check_origin(folder: Path, wanted: VerifyOptions, found: Verification) -> None:
    """Check signature and digest as far as a person gave what they are compared with."""
    if wanted.public_key is not None:
        found.passed("signature", check_signature(folder, wanted.public_key))
    elif (folder / SIGNATURE).exists():
        found.notes.append("the bundle is signed, but the signature was not checked: give --public-key")
    check_digest(found.digest, wanted.digest)
    found.passed("digest", found.digest + (", as expected" if wanted.digest else ""))


# -- manifest.json -----------------------------------------------------------------------------------------------------


def strict_json(content: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, without keys that stand twice and with finite numbers alone."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {printable_value(twice)} appears twice")
        return dict(pairs)

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        read = json.loads(content.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{name}: it is not JSON in UTF-8 as in a bundle: {error}") from error
    if not isinstance(read, dict):
        raise Rejected(f"{name}: found {type(read).__name__} at the top, expected an object")
    return read


def read_manifest(content: bytes) -> dict[str, Any]:
    """Return manifest.json, once everything that verification relies on is well-formed."""
    manifest = strict_json(content, MANIFEST)
    version = manifest.get("schema_version")
    if type(version) is not int or version != 1:
        raise Rejected(
            f"{MANIFEST}: schema_version is {printable_value(version)}, this program reads 1; use a newer verify.py"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= FILES_AT_MOST:
        raise Rejected(f"{MANIFEST}: `files` is not an object of 1 to {FILES_AT_MOST} files")
    for name, entry in files.items():
        _check_entry(name, entry)
    _check_together(list(files))
    if sum(entry["bytes"] for entry in files.values()) > ALL_BYTES:
        raise Rejected(f"{MANIFEST}: the files have more than {ALL_BYTES:,} bytes in total")
    _check_main(manifest)
    return manifest


def check_name(name: str, where: str) -> None:
    """Refuse a name that is no plain relative path; `where` is the file that has it."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        plain = f"{LONGEST_NAME} letters, digits, `.`, `_`, `-` at most, with single `/` between them"
        raise Rejected(
            f"{where}: {printable_value(name)} is not a name that a file of a bundle can have, allowed: {plain}"
        )


def _check_entry(name: str, entry: object) -> None:
    check_name(name, MANIFEST)
    if name in {MANIFEST, SUMS, SIGNATURE}:
        raise Rejected(f"{MANIFEST}: `files` names {name}, which cannot be one of them")
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        raise Rejected(f"{MANIFEST}: {name} has keys other than sha256 and bytes")
    digest, size = entry["sha256"], entry["bytes"]
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Rejected(f"{MANIFEST}: the sha256 of {name} is {printable_value(digest)}, expected 64 hexadecimal digits")
    if type(size) is not int or size <= 0:
        raise Rejected(f"{MANIFEST}: {name} has {printable_value(size)} bytes, expected an integer above 0")


def _check_together(names: Sequence[str]) -> None:
    """Refuse names that collide on a case-insensitive file system, and a file that is the folder of another."""
    seen: dict[str, tuple[str, bool]] = {}
    for name in [*names, MANIFEST, SUMS, SIGNATURE]:
        for path in (Path(name), *Path(name).parents):
            this = (path.as_posix(), path.as_posix() != name)
            other = seen.setdefault(this[0].lower(), this)
            if other != this:
                what = "only by case" if this[0] != other[0] else "in that one is a file and the other a folder"
                raise Rejected(f"{MANIFEST}: the names {this[0]} and {other[0]} differ {what}")


def _check_main(manifest: Mapping[str, Any]) -> None:
    files, main, runtime = manifest["files"], manifest.get("main"), manifest.get("runtime")
    if not isinstance(main, dict) or not main or not set(main) <= set(RUNTIMES):
        raise Rejected(f"{MANIFEST}: `main` is not an object with a file for {' or '.join(RUNTIMES)}")
    if not isinstance(runtime, str) or runtime not in main:
        raise Rejected(
            f"{MANIFEST}: `runtime` is {printable_value(runtime)}, expected one of `main`: {', '.join(main)}"
        )
    needed = list(REQUIRED)
    for name in main.values():
        if not isinstance(name, str) or not name.endswith((".onnx", ".xml", f".onnx{PACKED}", f".xml{PACKED}")):
            kinds = f"expected an .onnx or an .xml file, or one of these packed ({PACKED})"
            raise Rejected(f"{MANIFEST}: `main` names {printable_value(name)}, {kinds}")
        needed += [name, f"{name[:-4]}.bin"] if name.endswith(".xml") else [name]
        if name.endswith(PACKED):
            needed.append(UNPACKS["on_device/infer.py" in files])
    for name in needed:
        if name not in files:
            raise Rejected(f"{MANIFEST}: `files` lacks {printable_value(name)}, which every bundle of this kind has")


# -- files -------------------------------------------------------------------------------------------------------------


def printable_value(value: object) -> str:
    """Return a value from a bundle as text that any terminal can print, cut short."""
    text = str(value).encode("unicode_escape").decode()
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def read_file(folder: Path, name: str, at_most: int) -> bytes:
    """Return the content of a regular file of limited size."""
    size = _size(folder, name)
    if size > at_most:
        raise Rejected(f"{name}: it has {size:,} bytes, allowed: {at_most:,}")
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise Rejected(f"{name}: it cannot be read: {error.strerror}") from error


def _size(folder: Path, name: str) -> int:
    """Return the bytes of a file that is no link, pipe or device."""
    try:
        status = (folder / name).lstat()
    except OSError as error:
        raise Rejected(
            f"{name}: it is missing; expected in {printable_value(folder)}, the folder of a bundle"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise Rejected(f"{name}: it is {_kind(status.st_mode)}, expected a file")
    return status.st_size


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def _entries(folder: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder, in order of names; folders that are links are not entered."""
    try:
        with os.scandir(folder / below) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise Rejected(f"{printable_value(below) or '.'}: the folder cannot be read: {error.strerror}") from error
    for entry in entries:
        name, status = f"{below}{entry.name}", entry.stat(follow_symlinks=False)
        yield name, status
        if stat.S_ISDIR(status.st_mode):
            yield from _entries(folder, f"{name}/")


def check_structure(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Check that exactly the files of the manifest are there, at their sizes; return the bytes of all. Reads none."""
    files = manifest["files"]
    allowed = {*files, MANIFEST, SUMS, SIGNATURE}
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    for name, status in _entries(folder):
        if name not in (folders if stat.S_ISDIR(status.st_mode) else allowed):
            kind = "a file" if stat.S_ISREG(status.st_mode) else _kind(status.st_mode)
            why = " (Python writes it if another program imports infer.py)" if name == CACHE else ""
            text = f"{printable_value(name)}: it is {kind} that {MANIFEST} does not name{why}"
            raise Rejected(f"{text}; remove it, or copy the bundle again")
        if not stat.S_ISDIR(status.st_mode):
            _size(folder, name)
    for name, entry in files.items():
        size = _size(folder, name)
        if size != entry["bytes"]:
            raise Rejected(f"{name}: it has {size:,} bytes, {MANIFEST} says {entry['bytes']:,}")
    if (folder / SIGNATURE).exists() and _size(folder, SIGNATURE) > SIGNATURE_BYTES:
        raise Rejected(f"{SIGNATURE}: it has more than {SIGNATURE_BYTES:,} bytes, so it is not a signature")
    return sum(entry["bytes"] for entry in files.values())


def check_sums(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Check that SHA256SUMS, the manifest and the files agree; return the digest of SHA256SUMS."""
    content = read_file(folder, SUMS, TEXT_BYTES)
    sums = _read_sums(content)
    expected = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    for name in sorted({*expected, MANIFEST} - set(sums)):
        raise Rejected(f"{SUMS}: it has no line for {name}")
    for name in sorted(set(sums) - {*expected, MANIFEST}):
        raise Rejected(f"{SUMS}: it has a line for {name}, which {MANIFEST} does not name")
    for name, digest in expected.items():
        if sums[name] != digest:
            raise Rejected(f"{name}: {SUMS} and {MANIFEST} give different sha256 for it")
    for name in (MANIFEST, *expected):
        if _sha256(folder / name) != sums[name]:
            raise Rejected(f"{name}: it was changed: its sha256 is not that of {SUMS}")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _read_sums(content: bytes) -> dict[str, str]:
    """Return the digests by name in the text that `sha256sum` writes and reads."""
    sums: dict[str, str] = {}
    lines = content.decode("latin-1").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        digest, name = line[:64], line[66:]
        if line[64:66] != "  " or not DIGEST.fullmatch(digest) or not NAME.fullmatch(name):
            raise Rejected(f"{SUMS}: line {number} is not a sha256, two spaces and a name: {printable_value(line)}")
        if name in sums:
            raise Rejected(f"{SUMS}: line {number} names {name} a second time")
        sums[name] = digest
    if lines[-1]:
        raise Rejected(f"{SUMS}: its last line has no end: {printable_value(lines[-1])}")
    return sums


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise Rejected(f"{path.name}: it cannot be read: {error.strerror}") from error
    return total.hexdigest()


# -- signature and digest ----------------------------------------------------------------------------------------------


def check_signature(folder: Path, public_key: str) -> str:
    """Let minisign check the signature of SHA256SUMS by a key (a file, or its text); return its trusted comment."""
    if not (folder / SIGNATURE).is_file():
        raise Rejected(f"{SIGNATURE}: it is missing: the bundle is not signed, but a public key was given")
    if Path(public_key).is_file():
        key = ["-p", str(Path(public_key).resolve())]
    elif re.fullmatch(r"RW[A-Za-z0-9+/]{54}", public_key):
        key = ["-P", public_key]
    else:
        raise Rejected(
            f"{printable_value(public_key)}: neither a file nor a public key of minisign (56 characters, RW...)"
        )
    program = shutil.which("minisign")
    if program is None:
        raise Rejected(
            f"{SIGNATURE}: minisign, which checks it, is not installed; install it: apt-get install minisign"
        )
    files = ["-m", str((folder / SUMS).resolve()), "-x", str((folder / SIGNATURE).resolve())]
    done = subprocess.run([program, "-V", "-Q", *key, *files], check=False, capture_output=True, text=True)
    if done.returncode:
        why = printable_value((done.stderr.strip() or done.stdout.strip()).replace("\n", "; "))
        raise Rejected(f"{SIGNATURE}: it is not a signature of this bundle by that key; minisign says: {why}")
    return f"by the given key; its comment: {printable_value(done.stdout.strip())}"


def check_digest(digest: str, expected: str | None) -> None:
    """Compare the digest of SHA256SUMS with the one that a person knows from elsewhere."""
    if expected is None:
        return
    text = expected.strip().lower()
    wanted = text.removeprefix("sha256:")
    if not DIGEST.fullmatch(wanted):
        raise Rejected(f"--digest {printable_value(expected)}: expected sha256: and 64 hexadecimal digits")
    if digest != f"sha256:{wanted}":
        raise Rejected(f"{SUMS}: its digest is {digest}, expected sha256:{wanted}: this is another bundle")


# -- self-test ---------------------------------------------------------------------------------------------------------


def self_test(folder: Path, manifest: Mapping[str, Any], wanted: VerifyOptions, found: Verification) -> None:
    """Run the samples in the chosen runtime; `found` gets outputs, differences and notes. Raises Rejected."""
    runtime = wanted.runtime or manifest["runtime"]
    if runtime not in manifest["main"]:
        raise Rejected(
            f"{MANIFEST}: it has no file for {printable_value(runtime)}, allowed: {', '.join(manifest['main'])}"
        )
    expected = strict_json(read_file(folder, EXPECTED, TEXT_BYTES), EXPECTED)
    try:
        test, code = load_beside("self_test"), load_beside("infer")
        text = test.run(folder, manifest, expected, runtime, wanted.threads, found, code)
    except ImportError as error:
        raise Rejected(f"{error}; install what is missing: pip install -r requirements.txt", MISSING_RUNTIME) from error
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        raise Rejected(str(error), error.exit_code) from error
    found.passed("self-test", text)


def load_beside(name: str) -> ModuleType:
    """Load a module that lies beside this file: in the same bundle, or in the program that checks one."""
    path = Path(__file__).resolve().parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bundle_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ValueError) as error:
        raise Rejected(f"{name}.py: it is not a program: {printable_value(error)}") from error
    return module


# -- command line ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Check a bundle's files, then run its network on the samples.")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parent, help="folder; default: that of this file")
    parser.add_argument("--runtime", choices=RUNTIMES, help="runtime for the samples")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument(
        "--public-key", metavar="KEY", help="minisign public key, a file or its text: check the signature"
    )
    parser.add_argument("--digest", help="sha256 of SHA256SUMS, as the maker of the bundle published it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    given = parser.parse_args(arguments)
    if given.threads < 1:
        parser.error(f"argument --threads: found {given.threads}, allowed: 1 or more")
    found, code = Verification(), 0
    try:
        verify(given.bundle, VerifyOptions(given.runtime, given.threads, given.public_key, given.digest), found)
    except Rejected as error:
        found.error, code = str(error), error.exit_code
    try:
        print(as_json(found) if given.json else verification_lines(found), flush=True)
    except BrokenPipeError:  # nobody reads it, as after `| head`: 141 is what SIGPIPE gives
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or 141
    if code and found.error:
        print(f"error: {found.error}", file=sys.stderr)
    return code


def as_json(found: Verification) -> str:
    """Write what was found as JSON, with null for an output that is NaN or infinite."""
    told = asdict(found)
    for name, numbers in found.outputs.items():
        told["outputs"][name] = [
            each if isinstance(each, (int, float)) and math.isfinite(each) else None for each in numbers
        ]
    return json.dumps(told, indent=1, sort_keys=True, allow_nan=False)


def verification_lines(found: Verification) -> str:
    """Write what was found, a line each."""
    lines = [f"{check['name']:<10} ok    {check['text']}" for check in found.checks]
    lines += [f"note             {text}" for text in found.notes]
    return "\n".join([*lines, "verified" if found.verified else "refused"])


if __name__ == "__main__":
    sys.exit(main())

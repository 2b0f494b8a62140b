"""Ways to change the folder of a bundle: what a thief, a broken disk or an editor could do to one."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "model/model.onnx"
PIXELS = "samples/0.png"


@dataclass(frozen=True)
class Tampering:
    """A change of a good bundle's folder, the text that the refusal has to say, and its exit code."""

    name: str
    change: Callable[[Path], None]
    says: str
    code: int = 2
    options: tuple[str, ...] = ()


def rewrite(folder: Path) -> None:
    """Do what a thief would do who knows the format: make manifest.json and SHA256SUMS fit the files that are there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name not in {"manifest.json", "SHA256SUMS", "SHA256SUMS.minisig"}]
    manifest["files"] = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    sum_up(folder)


def sum_up(folder: Path) -> None:
    """Write SHA256SUMS over what manifest.json names and over itself, as far as it can be read."""
    names = [*json.loads((folder / "manifest.json").read_text())["files"], "manifest.json"]
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(names) if (folder / name).is_file()]
    (folder / "SHA256SUMS").write_text("".join(lines))


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(name: str) -> Callable[[Path], None]:
    """Change the last bit of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return change


def append(name: str, content: bytes = b"\n") -> Callable[[Path], None]:
    """Add bytes to a file, or make one."""

    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(content)

    return change


def put(name: str, content: bytes) -> Callable[[Path], None]:
    """Replace the content of a file."""
    return lambda folder: (folder / name).write_bytes(content) and None


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace a text in a file by another of the same length, wherever it first stands."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, (name, old)
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def remove(name: str) -> Callable[[Path], None]:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of a file or a folder; `make` gets the path."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"outside-{Path(name).name}")
        make(folder / name)

    return change


def linked(name: str) -> Callable[[Path], None]:
    """Replace a file or a folder by a symbolic link to the very same, outside the bundle."""
    return lambda folder: instead(name, lambda path: path.symlink_to(folder.parent / f"outside-{path.name}"))(folder)


def manifest(edit: Callable[[dict[str, Any]], object], *, sums: bool = False) -> Callable[[Path], None]:
    """Edit manifest.json; with `sums` SHA256SUMS is made to fit."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        edit(content)
        (folder / "manifest.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        if sums:
            sum_up(folder)

    return change


def named(name: str, *, like: str = "labels.txt") -> Callable[[Path], None]:
    """Name one more file in manifest.json; SHA256SUMS is made to fit."""
    return manifest(lambda content: content["files"].update({name: content["files"][like]}), sums=True)


def expected(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit samples/expected.json and make all checksums fit."""

    def change(folder: Path) -> None:
        file = folder / "samples" / "expected.json"
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        rewrite(folder)

    return change


def model(edit: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    """Edit the ONNX file and make all checksums fit."""

    def change(folder: Path) -> None:
        network = onnx.load(folder / MODEL)
        edit(network)
        (folder / MODEL).write_bytes(network.SerializeToString())
        rewrite(folder)

    return change


def scaled(factor: float) -> Callable[[onnx.ModelProto], None]:
    """Multiply the weights of a network."""

    def edit(network: onnx.ModelProto) -> None:
        for tensor in network.graph.initializer:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values * np.float32(factor)).astype(values.dtype), tensor.name))

    return edit


def outside(network: onnx.ModelProto) -> None:
    """Let the first weights come from a file beside the bundle."""
    tensor = network.graph.initializer[0]
    external_data_helper.set_external_data(tensor, "../../outside.bin", length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL


def sums(edit: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Edit the lines of SHA256SUMS."""

    def change(folder: Path) -> None:
        lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
        (folder / "SHA256SUMS").write_text("".join(edit(lines)))

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """Do one change after the other."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


ZERO = "0" * 64
FOLDERS = (
    # A file that is not what it was.
    Tampering("model: one bit", flip(MODEL), MODEL),
    Tampering("model: cut short", lambda folder: os.truncate(folder / MODEL, 100), MODEL),
    Tampering("model: emptied", put(MODEL, b""), MODEL),
    Tampering("model: one byte more", append(MODEL), MODEL),
    Tampering("weights of OpenVINO: one bit", flip("model/model.bin"), "model/model.bin"),
    Tampering("sample: one bit", flip(PIXELS), PIXELS),
    Tampering("expected outputs", flip("samples/expected.json"), "samples/expected.json"),
    Tampering("tolerance", replace("samples/expected.json", '"max_abs": ', '"max_abs":9'), "samples/expected.json"),
    Tampering("labels", flip("labels.txt"), "labels.txt"),
    Tampering("preprocessing", replace("preprocess.json", "1/255", "1/256"), "preprocess.json"),
    Tampering("requirements: a hash", flip("requirements.txt"), "requirements.txt"),
    Tampering("bill of materials", flip("sbom.cdx.json"), "sbom.cdx.json"),
    Tampering("model card", flip("MODEL_CARD.md"), "MODEL_CARD.md"),
    Tampering("recipe", flip("recipe.yaml"), "recipe.yaml"),
    Tampering("code: infer.py", append("infer.py", b"\nimport os\n"), "infer.py"),
    Tampering("code: infer.py, its size kept", replace("infer.py", "255", "256"), "infer.py"),
    Tampering("code: self_test.py", replace("self_test.py", "WIDEST, TINY = 0", "WIDEST, TINY = 9"), "self_test.py"),
    Tampering("code: verify.py", append("verify.py", b"\n# changed\n"), "verify.py"),
    # Files that are not there, or should not be.
    Tampering("model is missing", remove(MODEL), MODEL),
    Tampering("sample is missing", remove(PIXELS), PIXELS),
    Tampering("one file more", append("notes.txt", b"hello"), "notes.txt"),
    Tampering("one hidden file more", append("model/.hidden", b"hello"), "model/.hidden"),
    Tampering("one empty folder more", lambda folder: (folder / "more").mkdir(), "more"),
    Tampering("stale bytecode", append("__pycache__/infer.cpython-311.pyc", b"x"), "__pycache__"),
    Tampering("a library's name", append("hashlib.py", b"raise SystemExit(0)"), "hashlib.py"),
    Tampering("a name of control characters", append("a\n\x1b[31m", b"x"), "a\\n\\x1b"),
    Tampering("a folder in the place of a file", instead("labels.txt", Path.mkdir), "labels.txt"),
    Tampering("a symbolic link to the same file", linked(MODEL), MODEL),
    Tampering("a symbolic link to the same folder", linked("samples"), "samples"),
    Tampering("a pipe in the place of a file", instead("labels.txt", os.mkfifo), "labels.txt"),
    # manifest.json, on its own.
    Tampering("manifest is missing", remove("manifest.json"), "manifest.json"),
    Tampering("manifest is a link", linked("manifest.json"), "manifest.json"),
    Tampering("manifest: name", manifest(lambda content: content.update(name="another")), "manifest.json"),
    Tampering("manifest: version", manifest(lambda content: content.update(secateur="9.9")), "manifest.json"),
    Tampering(
        "manifest: accuracy",
        manifest(lambda content: content["accuracy"]["test"]["result"].update(accuracy=1.0)),
        "manifest.json",
    ),
    Tampering(
        "manifest: latency",
        manifest(lambda content: content["latency"][0]["timing"]["milliseconds"].update(value=0.001)),
        "manifest.json",
    ),
    Tampering("manifest: licence", manifest(lambda content: content["licences"].update(data="MIT-0")), "manifest.json"),
    Tampering(
        "manifest: another digest than SHA256SUMS",
        manifest(lambda content: content["files"]["labels.txt"].update(sha256=ZERO)),
        "labels.txt",
    ),
    Tampering(
        "manifest: another size", manifest(lambda content: content["files"]["labels.txt"].update(bytes=1)), "labels.txt"
    ),
    # manifest.json that fits SHA256SUMS but is none.
    Tampering("manifest: not UTF-8", put("manifest.json", b'{"schema_version": 1, "name": "\xff"}'), "manifest.json"),
    Tampering("manifest: a mark of byte order", lambda folder: put(
        "manifest.json", b"\xef\xbb\xbf" + (folder / "manifest.json").read_bytes())(folder), "manifest.json"),
    Tampering("manifest: a key twice", replace("manifest.json", '"seed"', '"seed": 1,\n "seed"'), "appears twice"),
    Tampering("manifest: NaN", replace("manifest.json", '"seed": ', '"seed": NaN, "other": '), "manifest.json"),
    Tampering("manifest: a number without end", replace("manifest.json", '"seed": ', '"seed": 1e999, "o": '), "1e999"),
    Tampering("manifest: digits without end", put("manifest.json", b'{"a": ' + b"9" * 9999 + b"}"), "manifest.json"),
    Tampering("manifest: a list", put("manifest.json", b"[]"), "manifest.json"),
    Tampering("manifest: nested without end", put("manifest.json", b"[" * 100_000), "manifest.json"),
    Tampering("manifest: cut short", lambda folder: os.truncate(folder / "manifest.json", 300), "manifest.json"),
    Tampering("manifest: too large", append("manifest.json", b" " * (9 << 20)), "manifest.json"),
    Tampering(
        "manifest: of the future", manifest(lambda content: content.update(schema_version=2), sums=True), "version is 2"
    ),
    Tampering(
        "manifest: version is true", manifest(lambda content: content.update(schema_version=True), sums=True), "True"
    ),
    Tampering("manifest: no files", manifest(lambda content: content.update(files={})), "files"),
    Tampering("name: leads upwards", named("../outside.txt"), "../outside.txt"),
    Tampering("name: leads upwards in the middle", named("model/../../outside.txt"), "model/../../outside.txt"),
    Tampering("name: absolute", named("/etc/passwd"), "/etc/passwd"),
    Tampering("name: separator of Windows", named("..\\outside.txt"), "outside.txt"),
    Tampering("name: drive letter", named("C:outside.txt"), "C:outside.txt"),
    Tampering("name: two slashes", named("model//model.onnx"), "model//model.onnx"),
    Tampering("name: a dot", named("./labels.txt"), "./labels.txt"),
    Tampering("name: differs by case", named("LABELS.txt"), "LABELS.txt"),
    Tampering("name: a folder that differs by case", named("Model/other.txt"), "Model"),
    Tampering("name: not ASCII", named("e\u0301.txt"), "e\\u0301.txt"),
    Tampering("name: NUL", named("labels.txt\0"), "labels.txt\\x00"),
    Tampering("name: the manifest's own", named("manifest.json"), "manifest.json"),
    Tampering("name: a file that is a folder", named("labels.txt/more"), "labels.txt"),
    Tampering(
        "manifest: a needed file is not named",
        both(remove("infer.py"), manifest(lambda content: content["files"].pop("infer.py"), sums=True)),
        "infer.py",
    ),
    Tampering(
        "manifest: size is no number",
        manifest(lambda content: content["files"]["labels.txt"].update(bytes="6"), sums=True),
        "labels.txt",
    ),
    Tampering(
        "manifest: the model is elsewhere",
        manifest(lambda content: content["main"].update(onnxruntime="model/other.onnx"), sums=True),
        "model/other.onnx",
    ),
    Tampering(
        "manifest: unknown runtime", manifest(lambda content: content.update(runtime="tensorrt"), sums=True), "tensorrt"
    ),
    # SHA256SUMS.
    Tampering("sums are missing", remove("SHA256SUMS"), "SHA256SUMS"),
    Tampering("sums: a line less", sums(lambda lines: lines[1:]), "SHA256SUMS"),
    Tampering("sums: a line more", sums(lambda lines: [*lines, f"{ZERO}  more.txt\n"]), "SHA256SUMS"),
    Tampering("sums: a line twice", sums(lambda lines: [*lines, lines[0]]), "SHA256SUMS"),
    Tampering("sums: a name twice", sums(lambda lines: [*lines, f"{ZERO}  labels.txt\n"]), "SHA256SUMS"),
    Tampering("sums: a digest", sums(lambda lines: [f"{ZERO}{lines[0][64:]}", *lines[1:]]), "SHA256SUMS"),
    Tampering("sums: no end of the last line", sums(lambda lines: [*lines[:-1], lines[-1][:-1]]), "SHA256SUMS"),
    Tampering("sums: lines of Windows", sums(lambda lines: [line[:-1] + "\r\n" for line in lines]), "SHA256SUMS"),
    Tampering("sums: no text", put("SHA256SUMS", bytes(range(256))), "SHA256SUMS"),
    Tampering("sums: empty", put("SHA256SUMS", b""), "SHA256SUMS"),
    # Everything rewritten: found by the self-test, or by the digest.
    Tampering("rewritten: another network", model(scaled(1.5)), MODEL, 6),
    Tampering("rewritten: a network of NaN", model(scaled(float("nan"))), "not finite", 6),
    Tampering("rewritten: no network", both(put(MODEL, b"not a network"), rewrite), MODEL),
    Tampering("rewritten: weights from outside", model(outside), MODEL),
    Tampering(
        "rewritten: normalisation", both(replace("preprocess.json", "0.4", "0.9"), rewrite), "samples/", 6
    ),
    Tampering(
        "rewritten: expected outputs",
        expected(lambda content: content["samples"][0]["outputs"].update(onnxruntime=[9.0, 1.0, 1.0])),
        PIXELS,
        6,
    ),
    Tampering(
        "rewritten: fewer expected outputs",
        expected(lambda content: content["samples"][0]["outputs"]["onnxruntime"].pop()),
        PIXELS,
        6,
    ),
    Tampering(
        "rewritten: a tolerance without meaning",
        expected(lambda content: content["tolerance"]["onnxruntime"].update(max_abs=1e9)),
        "samples/expected.json",
    ),
    Tampering("rewritten: no samples", expected(lambda content: content.update(samples=[])), "samples/expected.json"),
    Tampering(
        "rewritten: a sample elsewhere",
        expected(lambda content: content["samples"][0].update(file="../outside.png")),
        "../outside.png",
    ),
    Tampering("rewritten: an empty file", both(put("labels.txt", b""), rewrite), "labels.txt"),
    Tampering("rewritten: but its digest is known", both(flip("labels.txt"), rewrite), "SHA256SUMS",
              options=("--digest", f"sha256:{ZERO}")),
    Tampering("untouched: another digest is expected", lambda folder: None, "SHA256SUMS",  # noqa: ARG005
              options=("--digest", f"sha256:{ZERO}")),
    Tampering("untouched: no digest is expected", lambda folder: None, "--digest", options=("--digest", "sha256:12")),  # noqa: ARG005
)  # fmt: skip

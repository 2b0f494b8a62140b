"""The lines of docs/containers.md do what they say, and the images are what they should be."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.containers.image import size_text
from tests.containers.stand_in import ROOT

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.containers.engine import Engine
    from tests.containers.page import Done
    from tests.containers.stand_in import Base

#: The page's options, under which all must work.
CLOSED = ("--network", "none", "--read-only", "--tmpfs", "/tmp")  # noqa: S108 (the container's own)
PIPELINE, RUNTIME = "secateur", "cells"
RUNTIME_BYTES = 250_000_000
#: What comes on top of the base image: the slim Python image has about 130 MB.
ADDED_BYTES = 120_000_000
NOT_FOR_DEVICES = {
    *(f"site-packages/{name}" for name in ("torch", "openvino", "pipeline", "pip")),
    *(f"bin/{name}" for name in ("cc", "gcc", "g++", "clang", "ld", "make")),
    *(f"pip/{name}" for name in ("http", "http-v2", "selfcheck", "wheels")),
}
CONNECT = """
import os, socket
print(sorted(os.listdir('/sys/class/net')))
try:
    socket.create_connection(('192.0.2.1', 9), timeout=5)
except OSError as error:
    print(os.strerror(error.errno))
"""
WRITE = """
import errno, os
print(os.getuid())
for folder in ('/', '/opt', '/bundle', '/work', '/tmp', '/cache'):
    try:
        open(os.path.join(folder, 'written'), 'w').close()
        print(folder, 'written')
    except OSError as error:
        print(folder, errno.errorcode[error.errno])
"""

NAMES = """
import os
for top in set(os.listdir('/')) - {'dev', 'proc', 'sys'}:
    for folder, folders, files in os.walk('/' + top):
        for name in [*folders, *files]:
            print(os.path.join(os.path.basename(folder), name))
"""

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.usefixtures("done")]


def run(engine: Engine, image: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an image as the page does, as the image's own user."""
    return engine.call("run", "--rm", *engine.run_options, *CLOSED, *options, image, *words)


def python(engine: Engine, image: str, *words: str, options: tuple[str, ...] = ()) -> str:
    """Run the Python of an image and return what it prints."""
    ran = run(engine, image, *words, options=("--entrypoint", "python", *options))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def configuration(engine: Engine, image: str) -> dict[str, Any]:
    """Return what an image says of itself."""
    (told,) = json.loads(engine.told("image", "inspect", image))
    # Docker has the health check within, podman beside.
    return {"Healthcheck": told.get("Healthcheck"), **told["Config"]}


def test_the_recipe_ran_and_reported(done: Done) -> None:
    """Results lie in the mounted folder, belong to who ran it, and the report has the quantized file's row."""
    run_folder = done.folder / "work" / "runs" / "cells"
    assert (run_folder / "report.html").stat().st_uid == done.user
    assert "quantize" in (run_folder / "report.md").read_text()
    assert (run_folder / "bundle.tar.gz").is_file()


def test_the_bundle_verifies_in_its_image(done: Done) -> None:
    """verify.py checked every file and compared outputs; infer.py named a class for the photo."""
    assert re.search(r"^self-test +ok +\d+ samples in onnxruntime", done.output, re.MULTILINE)
    assert re.search(r"^verified$", done.output, re.MULTILINE)
    assert re.search(r"^/photos/cell.png: (functional|defective) ", done.output, re.MULTILINE)


def test_the_gate_answered(done: Done) -> None:
    """Two bundles were compared inside: the same file is never FAIL, and seldom INCONCLUSIVE."""
    assert re.search(r"^PASS  cells", done.output, re.MULTILINE), done.output


@pytest.mark.parametrize("image", [PIPELINE, RUNTIME])
def test_the_network_is_off(engine: Engine, image: str) -> None:
    """There is no interface but the container's own, and a connection fails at once."""
    assert python(engine, image, "-c", CONNECT).splitlines() == ["['lo']", "Network is unreachable"]


@pytest.mark.parametrize(("image", "writable"), [(PIPELINE, {"/tmp", "/cache"}), (RUNTIME, {"/tmp"})])  # noqa: S108
def test_who_runs_may_write_where_it_should(engine: Engine, image: str, writable: set[str]) -> None:
    """The user is nobody in particular, and the root is read-only but for the mounts."""
    user, *told = python(engine, image, "-c", WRITE).splitlines()
    assert user == "10001"
    assert {line.split()[0] for line in told if line.endswith("written")} == writable
    assert all(line.endswith(("written", "EROFS", "ENOENT")) for line in told), told


def test_images_say_what_they_run(engine: Engine) -> None:
    """The pipeline is the command, the runtime is infer.py with verify.py as health check; neither is root's."""
    pipeline, runtime = configuration(engine, PIPELINE), configuration(engine, RUNTIME)
    assert pipeline["Entrypoint"] == ["secateur"]
    assert list(pipeline["Volumes"]) == ["/cache"]
    assert runtime["Entrypoint"] == ["python", "infer.py"]
    assert runtime["Healthcheck"]["Test"] == ["CMD", "python", "verify.py"]
    assert pipeline["User"] == runtime["User"] == "10001:10001"


def test_the_runtime_image_is_small(engine: Engine, base: Base) -> None:
    """All of it stays below 250 MB, also on a base of 130 MB."""
    size, below = engine.size(RUNTIME), engine.size(base.image)
    assert size
    assert below
    print(f"image-test: {PIPELINE} {size_text(engine, PIPELINE)}, {RUNTIME} {size:,} bytes, base {below:,} bytes")
    assert size <= RUNTIME_BYTES
    assert size - below <= ADDED_BYTES


def test_the_runtime_image_has_one_runtime_and_no_tools(engine: Engine) -> None:
    """No torch, no other runtime, no compiler, nothing that pip kept."""
    names = set(python(engine, RUNTIME, "-c", NAMES).splitlines())
    assert {"site-packages/onnxruntime", "site-packages/numpy", "bundle/verify.py", "bin/python"} <= names
    assert names & NOT_FOR_DEVICES == set()


def test_a_changed_bundle_is_refused_where_it_runs(engine: Engine, done: Done) -> None:
    """The health check names the file that is not the one that was packed."""
    model = changed(
        done.folder / "work" / "runs" / "cells" / "bundle" / "model" / "model.onnx", done.folder / "other.onnx"
    )
    mount = f"{model}:/bundle/model/model.onnx:ro"
    ran = run(engine, RUNTIME, "verify.py", options=("--entrypoint", "python", "--volume", mount))
    assert ran.returncode == 2
    assert "model/model.onnx" in ran.stdout + ran.stderr


def test_a_changed_bundle_makes_no_image(engine: Engine, base: Base, done: Done) -> None:
    """The build ends and names the file."""
    bundle = done.folder / "changed"
    shutil.copytree(done.folder / "work" / "runs" / "cells" / "bundle", bundle)
    changed(bundle / "labels.txt", bundle / "labels.txt")
    words = ["--target", "runtime", "--tag", "secateur-refused", "--file", str(ROOT / "Dockerfile")]
    ran = engine.call("build", *words, *base.options, *engine.build_options, str(bundle))
    assert ran.returncode != 0
    assert "labels.txt: FAILED" in ran.stdout + ran.stderr
    assert not engine.has("secateur-refused")


def changed(file: Path, copy: Path) -> Path:
    """Write a copy of a file with one bit turned."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    copy.chmod(0o644)
    return copy

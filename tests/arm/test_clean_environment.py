"""A bundle in a new environment that has what its requirements.txt pins and nothing else, as on a device."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from typing import TYPE_CHECKING

import pytest

from tests.unit.bundle.tampering import sha256

if TYPE_CHECKING:
    from pathlib import Path

    from tests.arm.lab import Lab

pytestmark = [pytest.mark.arm, pytest.mark.slow]

NAME = "EfficientNet-Lite0 int8 arm_exact"
#: What pip says where it reaches no index, or one without these wheels.
NO_INDEX = ("No matching distribution", "NewConnectionError", "ConnectionError", "Could not fetch URL")
UNREACHABLE = "the index of packages that pip uses does not have what is pinned: "


def python_with(requirements: Path, folder: Path) -> Path:
    """Return a Python that has these requirements alone; skips where there is no index to install them from."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirements)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode and any(text in done.stderr for text in NO_INDEX):
        pytest.skip(UNREACHABLE + done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the bundle in its folder, with nothing of this environment."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(python), *arguments],
        cwd=bundle,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(("runtime", "requirements"), [("onnxruntime", ""), ("openvino", "-openvino")])
def test_requirements_are_enough(lab: Lab, tmp_path: Path, runtime: str, requirements: str) -> None:
    """Wheels with these hashes are there, and verify.py and infer.py need nothing beside them."""
    bundle = lab.bundle(NAME)
    python = python_with(bundle / f"requirements{requirements}.txt", tmp_path / "venv")
    listed = run(python, bundle, "-m", "pip", "list", "--format=json").stdout
    assert not {"torch", "onnx", "pillow", "secateur"} & {each["name"].lower() for each in json.loads(listed)}
    verified = run(python, bundle, "verify.py", "--runtime", runtime)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.endswith("verified\n")
    inferred = run(python, bundle, "infer.py", "samples/0.png", "--runtime", runtime, "--json")
    assert inferred.returncode == 0, inferred.stderr
    assert json.loads(inferred.stdout)["results"][0]["classes"][0]["label"] in {"functional", "defective"}
    assert not list(bundle.rglob("__pycache__"))


def test_a_bundle_made_again_has_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    """Of the main recipe's network: elsewhere, by the command, from the finished run."""
    bundle = lab.bundle(NAME)
    made = lab.command("bundle", str(bundle.parent), "--out", str(tmp_path / "again.tar.gz"))
    assert made.returncode == 0, made.stderr
    assert sha256(tmp_path / "again.tar.gz") == sha256(bundle.parent / "bundle.tar.gz")

"""What the harness must get right, each by the command that a user would type; writes results/harness/acceptance.json.

The rates over a hundred comparisons are those of harness.py; here are the single cases. Needs `qemu-user` and a C
compiler for the emulated ones, and an index of packages for an older runtime: what is missing is reported as not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness_models import write_network, write_tiny
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).parent / "results" / "harness" / "acceptance.json"
OLDER_RUNTIME = "onnxruntime==1.30.0"
PASS, FAIL, INCONCLUSIVE, INCOMPARABLE, WRONG_OUTPUTS = 0, 1, 3, 4, 6
SLEEPY = """
import time
import torch
from torch import nn

class Sleepy(nn.Module):
    def __init__(self, milliseconds):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)
        self.milliseconds = milliseconds

    def forward(self, images):
        if self.milliseconds:
            time.sleep(self.milliseconds / 1000)
        return self.conv(images).mean((2, 3))

def build(milliseconds=0.0):
    torch.manual_seed(0)
    return Sleepy(milliseconds)
"""


@dataclass(frozen=True)
class Told:
    """What a command said: exit code, the result where there is one, and its messages."""

    code: int
    result: dict[str, Any]
    text: str


def secateur(*arguments: str) -> Told:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    result = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return Told(done.returncode, result, done.stderr)


def compare(folder: Path, base: Path, candidate: Path, *options: str) -> Told:
    """Run `secateur compare --json`."""
    return secateur("compare", str(base), str(candidate), "--json", "--out", str(folder / "out"), *options)


def small_budget(folder: Path) -> tuple[bool, str]:
    """Too small a budget is INCONCLUSIVE, never PASS, for a file against its own copy."""
    base = write_network(folder / "base.onnx")
    codes = [compare(folder, base, base, "--budget", budget).code for budget in ("1ms", "50ms", "300ms")]
    return codes == [INCONCLUSIVE] * 3, f"exit codes {codes}"


def byte_copy_under_qemu(folder: Path) -> tuple[bool, str]:
    """A byte copy differs by less than 0.05 % in instructions, and +5 % of work is found."""
    base, slower = write_network(folder / "base.onnx"), write_network(folder / "slower.onnx", 24)
    options = ("--metric", "instructions", "--device", "qemu://cortex-a72")
    same, more = compare(folder, base, base, *options), compare(folder, base, slower, *options)
    if not same.result:
        raise RuntimeError(same.text)
    off = same.result["ratio"]["value"] - 1
    found = more.result["ratio"]["value"] - 1
    return abs(off) < 0.0005 and same.code == PASS and more.code == FAIL, f"copy {off:+.4%}, wider network {found:+.2%}"  # noqa: PLR2004


def other_threads(folder: Path) -> tuple[bool, str]:
    """Another number of threads is INCOMPARABLE and named."""
    base = write_network(folder / "base.onnx")
    told = compare(folder, base, base, "--threads-b", "2")
    return told.code == INCOMPARABLE and "threads: 1, 2" in told.text, _last(told)


def other_runtime_version(folder: Path) -> tuple[bool, str]:
    """Another version of the runtime is INCOMPARABLE and named."""
    venv.create(folder / "older", with_pip=True)
    python = folder / "older" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "numpy", OLDER_RUNTIME]
    subprocess.run(install, check=True, capture_output=True)  # noqa: S603 - a fixed command
    registry = folder / "devices.json"
    added = _with_registry(registry, "device", "add", "older", "local", "--python", str(python))
    if added.returncode:
        raise RuntimeError(added.stderr)
    base = write_network(folder / "base.onnx")
    done = _with_registry(
        registry, "compare", str(base), str(base), "--device-b", "older", "--out", str(folder / "out")
    )
    told = Told(done.returncode, {}, done.stderr)
    return told.code == INCOMPARABLE and "runtime version" in told.text, _last(told)


def sleeping_network(folder: Path) -> tuple[bool, str]:
    """A network that sleeps uses no CPU time; it is found to be slower all the same."""
    files = []
    for name, milliseconds in (("awake", 0.0), ("asleep", 1.0)):
        files.append(_torch_network(folder / name, milliseconds))
    told = compare(folder, *files, "--runtime", "torch", "--budget", "20s")
    reasons = [each["code"] for each in told.result.get("reasons", [])]
    return told.code == FAIL, f"exit code {told.code}, reasons {reasons}"


def slower_int8(folder: Path) -> tuple[bool, str]:
    """An int8 file that is slower than its FP32 file fails, and the roofline says why."""
    base = write_tiny(folder / "tiny.onnx")
    int8 = folder / "tiny-int8.onnx"
    quantize_static(
        base,
        int8,
        _Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    told = compare(folder, base, int8, "--tolerance", "any")
    bound = (told.result.get("candidate") or {}).get("roofline") or {}
    text = f"exit code {told.code}, ratio {told.result['ratio']['value']:.2f}, bound {bound.get('bound')}"
    return told.code == FAIL and bound.get("bound") == "overhead", text


def wrong_outputs(folder: Path) -> tuple[bool, str]:
    """A file that computes something else is not timed."""
    base, other = write_network(folder / "base.onnx"), write_network(folder / "other.onnx", seed=1)
    told = compare(folder, base, other)
    return told.code == WRONG_OUTPUTS, _last(told)


CASES: tuple[Callable[[Path], tuple[bool, str]], ...] = (
    small_budget,
    byte_copy_under_qemu,
    other_threads,
    other_runtime_version,
    sleeping_network,
    slower_int8,
    wrong_outputs,
)


def main() -> int:
    """Run every case and say which hold."""
    found = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                holds, text = case(Path(folder))
                state = "holds" if holds else "FAILED"
            except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
                state, text = "not run", str(error).strip().splitlines()[-1]
        text = text.replace(folder, ".")
        found.append({"case": case.__name__, "what": (case.__doc__ or "").strip(), "state": state, "found": text})
        print(f"{state:8} {case.__name__}: {text}", flush=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(each["state"] == "FAILED" for each in found))


class _Calibration(CalibrationDataReader):  # type: ignore[misc] - the library has no types
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"image": rng.standard_normal((1, 4, 8, 8), dtype=np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _torch_network(folder: Path, milliseconds: float) -> Path:
    """Write a torch artifact as a recipe's first stage does."""
    from pipeline.core.artifact import Artifact, TensorSpec, payload_digest  # noqa: PLC0415 - torch is only needed here
    from pipeline.core.store import write_artifact  # noqa: PLC0415
    from pipeline.network.definition import build_network  # noqa: PLC0415
    from pipeline.network.stored import write_original  # noqa: PLC0415

    folder.mkdir()
    definition = folder.parent / "sleepy.py"
    definition.write_text(SLEEPY)
    arguments = {"milliseconds": milliseconds}
    write_original(folder, build_network(definition, arguments), definition, arguments)
    ports = (TensorSpec(name="input", shape=(1, 3, 32, 32), layout="NCHW"),), (TensorSpec(name="out", shape=(1, 32)),)
    artifact = Artifact(
        form="torch", folder=folder, digest=payload_digest("torch", folder), inputs=ports[0], outputs=ports[1]
    )
    write_artifact(artifact, folder)
    return folder


def _with_registry(registry: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"SECATEUR_DEVICES={registry}", sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command


def _last(told: Told) -> str:
    return f"exit code {told.code}: " + " ".join(told.text.strip().split("\n")[-2:])


if __name__ == "__main__":
    sys.exit(main())

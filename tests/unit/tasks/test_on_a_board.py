"""The kits run on a board: copied to another place, without torch, and without the rest of the program."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

TASKS = Path(__file__).resolve().parents[3] / "pipeline" / "tasks"

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pipeline", "pydantic"):
            raise ImportError(f"{name} is not on this board")

sys.meta_path.insert(0, Refuse())
import numpy as np
from kits.kinds import KITS, open_kit

eye = np.eye(3, dtype=np.float32)
box = np.zeros((7, 8, 8), np.float32)
box[4] = np.where(np.arange(64).reshape(8, 8) == 27, 9, -9)
box[5:] = -9
raw = {"image": np.zeros((1, 16, 16), np.uint8)}
cases = {
    "classification": ({"classes": 3}, eye[1], 1),
    "multilabel": ({"classes": 3}, eye[1] * 18 - 9, eye[1]),
    "segmentation": ({"classes": 3}, eye[:, :, None], np.arange(3)[:, None]),
    "detection": ({"classes": 3, "strides": [8]}, box, [[22.5, 22.5, 33.6, 33.6, 0]]),
    "regression": ({"layout": "dense"}, np.ones((1, 12, 12)), np.ones((1, 12, 12))),
    "token": ({"classes": 3}, eye, np.arange(3)),
    "embedding": ({"recall_at": [1]}, eye[0], eye[0]),
}
assert cases.keys() == KITS.keys()
for kind, (settings, output, target) in cases.items():
    kit = open_kit(kind, **settings)
    kit.preprocess(raw)
    assert kit.check_outputs({"output": output.shape}) == [], kind
    assert kit.check_targets([target]) == [], kind
    prediction = kit.decode({"output": output})
    metric = kit.metrics[0]
    score = metric.compute([metric.statistic(prediction, target)])
    if hasattr(kit, "draw"):
        kit.draw(prediction, np.zeros((64, 64, 3) if kind == "detection" else (3, 1, 3), np.uint8))
    print(kind, metric.name, round(score, 3), kit.show(prediction).replace("\\n", "; "))
print(sorted({"torch", "pipeline"} & sys.modules.keys()))
"""


def test_kits_run_as_they_are(tmp_path: Path) -> None:
    """Each decodes, scores, shows and draws; only numpy is loaded."""
    copied = tmp_path / "kits"
    shutil.copytree(TASKS, copied, ignore=shutil.ignore_patterns("config.py", "__pycache__"))
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "classification accuracy 1.0 1",
        "multilabel mAP 1.0 1 1.00",
        "segmentation mIoU 1.0 0 33.3%, 1 33.3%, 2 33.3%",
        "detection mAP50-95 1.0 0 1.00 (22, 22, 34, 34)",
        "regression PSNR 100.0 map 1 x 12 x 12, 1 to 1, mean 1",
        "token accuracy 1.0 0 1 2",
        "embedding cosine 1.0 vector of 3, length 1: 1 0 0 ...",
        "[]",
    ]


def test_nothing_of_newer_python() -> None:
    """A board may have Python 3.9: no match statement, no strict zip, no union at run time."""
    for file in TASKS.glob("*.py"):
        text = file.read_text()
        if file.name not in {"config.py", "__init__.py"}:
            assert "from __future__ import annotations" in text, file
            assert "strict=" not in text, file
            ast.parse(text, file.name, feature_version=(3, 9))
            assert not any(line.startswith(("import torch", "from torch")) for line in text.splitlines()), file

"""Every kind of task from network to bundle, by the recipes that `secateur task new` writes, and three jobs more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.api import run, verify
from pipeline.bundle.on_device.task.network import TaskNetwork
from pipeline.bundle.on_device.task.task_code import load_facts
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.recipe import load_recipe
from pipeline.recipe.starter import write_starter
from pipeline.run.evaluate_file import evaluate_file
from pipeline.tasks.kinds import KITS

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.results.run import Row

#: Shorter than what a person starts from: mechanics are tried here, not what comes out.
SHORT = ("stages.0.epochs=2", "stages.2.epochs=1", "stages.1.images=32", "stages.quantize.images=32")
#: Kinds with a metric that has a score for each class.
WITH_CLASSES = {"classification", "multilabel", "segmentation", "detection"}
#: Jobs beside those of the starters: a kind, what replaces its data, and its network, and keys of the task.
JOBS = {
    "super-resolution": (
        "regression",
        """
    pixels, _, _ = images(count, generator)
    return Samples({"image": pixels[:, :, ::2, ::2].copy()}, pixels.astype(np.float32) / 255)
""",
        """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(block(1, width), block(width, 8), nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, image):
        return self.body(image)
""",
        "{kind: regression, layout: dense, metric: PSNR, loss: l1}",
    ),
    "image-and-numbers": (
        "segmentation",
        """
    pixels, _, classes = images(count, generator)
    numbers = generator.standard_normal((count, 5)).astype(np.float32)
    return Samples({"image": pixels, "numbers": numbers}, classes + (numbers[:, 0] > 0))
""",
        """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(block(1, 8, 2), block(8, width, 2))
        self.beside, self.head = nn.Linear(5, width), nn.Linear(2 * width, 3)

    def forward(self, image, numbers):
        return self.head(torch.cat([self.body(image).mean((2, 3)), self.beside(numbers).relu()], 1))
""",
        "{kind: classification}",
    ),
    "sentence": (
        "token",
        """
    tokens = generator.integers(2, 20, (count, 12))
    mask = (np.arange(12) < generator.integers(6, 13, (count, 1))).astype(np.int64)
    tokens = tokens * mask
    return Samples({"tokens": tokens, "mask": mask}, (tokens == 7).any(1).astype(np.int64))
""",
        """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, width), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 2)

    def forward(self, tokens, mask):
        found = self.embed(tokens)
        found = found + self.down(nn.functional.gelu(self.up(self.norm(found))))
        weight = mask.to(found.dtype).unsqueeze(2)
        return self.head((found * weight).sum(1) / weight.sum(1))
""",
        "{kind: classification, dynamic: {length: {tokens: 1, mask: 1}}, timed: [{length: 18}, {length: 12}]}",
    ),
}


def write_job(name: str, folder: Path) -> None:
    """Write the starter that a job is made of, with its own samples and network."""
    kind, samples, network, task = JOBS[name]
    write_starter(kind, folder)
    data, model, recipe = (folder / each for each in ("data.py", "model.py", "recipe.yaml"))
    text = data.read_text()
    start, end = text.index("    generator = np.random.default_rng(seed)\n"), text.index("def load():")
    data.write_text(text[:start] + "    generator = np.random.default_rng(seed)" + samples + "\n\n" + text[end:])
    text = model.read_text()
    model.write_text(text[: text.index("class Net")] + network.strip() + "\n\n\n" + text[text.index("def build") :])
    lines = recipe.read_text().splitlines()
    recipe.write_text("\n".join(f"task: {task}" if line.startswith("task:") else line for line in lines) + "\n")
    if name == "super-resolution":
        data.write_text(data.read_text().replace(", normalisation=Normalisation((0.3,), (0.3,))", ""))


@pytest.mark.parametrize("job", [*KITS, "file", *JOBS])
def test_every_job_goes_from_its_network_to_a_bundle(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained, pruned, exported, quantized and bundled; the file scores alike by itself, the bundle verifies."""
    monkeypatch.chdir(tmp_path)
    if job in JOBS:
        write_job(job, tmp_path)
    else:
        write_starter(job, tmp_path)
    stages = [line for line in (tmp_path / "recipe.yaml").read_text().splitlines() if "kind: measure" not in line]
    taught = "\n".join(stages).replace("learning_rate: 0.003}", "learning_rate: 0.003, distill: {from: original}}")
    assert taught.count("distill: {from: original}}") == 1
    (tmp_path / "recipe.yaml").write_text(taught + "\n")
    made = run(tmp_path / "recipe.yaml", tmp_path / "run", overrides=SHORT, store=tmp_path / "store")
    rows = made.report.rows
    assert [row.kind for row in rows] == ["original", "finetune", "prune", "finetune", "export", "quantize", "bundle"]
    assert rows[4].parameters is not None
    assert rows[0].parameters is not None
    assert rows[4].parameters < rows[0].parameters
    exported, quantized = (score(row) for row in rows[4:6])
    metric = made.report.task.judged
    assert abs(quantized - exported) < 0.2 * max(1.0, abs(exported)), metric.name
    assert made.report.final is not None
    assert made.report.final.difference.low <= made.report.final.difference.value <= made.report.final.difference.high
    assert rows[5].nearness is not None
    compared = made.report.task.kind not in {"regression", "embedding", "file"}
    assert all((seen.agreement is not None) == compared for seen in rows[5].nearness.seen)
    assert bool(made.report.final.class_metric) == (made.report.task.kind in WITH_CLASSES)
    loaded = load_recipe(tmp_path / "recipe.yaml", SHORT)
    file = tmp_path / "run" / rows[5].folder / "model.onnx"
    alone = evaluate_file(file, loaded, split="validation", runtime=None, threads=1, progress=SilentProgress())
    assert alone.score == rows[5].validation
    assert made.bundle is not None
    assert verify(made.bundle).digest
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())
    assert manifest.get("dynamic") == ({"length": {"tokens": 1, "mask": 1}} if job == "sentence" else None)
    if job == "sentence":
        facts = load_facts(tmp_path / "run" / "bundle")
        network = TaskNetwork(tmp_path / "run" / "bundle", facts)
        longer = {name: np.ones(20, np.int64) for name in ("tokens", "mask")}
        network.check_inputs(longer, "a longer sentence")
        assert [each.shape for each in network.outputs([longer])[0].values()] == [(2,)]


def score(row: Row) -> float:
    """Return the score of a row by the metric that is judged."""
    assert row.validation is not None
    return row.validation.judged


def test_a_drop_in_another_unit_than_the_metrics_is_refused(tmp_path: Path) -> None:
    """Points say nothing of a distance in pixels: a budget that cannot be judged is no budget that is met."""
    write_starter("file", tmp_path)
    with (tmp_path / "recipe.yaml").open("a") as recipe:
        recipe.write("budget: {score_drop: 0.5pt}\n")
    with pytest.raises(InputError, match=r"budget: found 0.5pt, allowed: an amount in px, or a share in %, since"):
        run(tmp_path / "recipe.yaml", tmp_path / "run", store=tmp_path / "store")


def test_sizes_are_not_left_open_where_a_stage_fixes_them(tmp_path: Path) -> None:
    """It is said before anything is trained."""
    write_job("sentence", tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("kind: finetune, epochs: 4", "kind: quantize-aware-finetune, epochs: 4")
    )
    lines = [
        line for line in recipe.read_text().splitlines() if "kind: export" not in line and "kind: quantize," not in line
    ]
    recipe.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        InputError, match="quantize-aware-finetune makes files of fixed sizes, and the task leaves some"
    ):
        run(recipe, tmp_path / "run", store=tmp_path / "store")

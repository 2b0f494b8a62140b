"""Definitions as users write them: what can be used is, and what cannot is told in words, with the line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.errors import InputError
from pipeline.core.store import Store
from pipeline.network.definition import build_network, initialise_lazy_layers
from pipeline.network.soundness import check_classifier
from pipeline.network.stored import load_network, write_original
from pipeline.recipe import load_recipe
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from tests.project import Project

CLASSES = ("a", "b")
INPUTS = (TensorSpec(name="input", shape=(1, 1, 12, 12)),)
HEAD = """import os
import sys
import torch
from torch import nn


def body():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = body(), nn.Linear(4, 2)

    def forward(self, x):
        y = self.fc(self.body(x))
        {forward}
        return y

    {method}


def build():
    net = Net()
    {build}
    return net


{module}
"""


def definition(folder: Path, **parts: str) -> Path:
    """Write a definition with these parts: in forward (line 18), a method (21), in build (26), at the end (30)."""
    filled = {name: parts.get(name, "pass") for name in ("forward", "method", "build", "module")}
    (folder / "model.py").write_text(HEAD.format(**filled))
    return folder / "model.py"


#: Part and text -> what `build` says.
REFUSED = {
    "exit while it is imported": (
        "module",
        "sys.exit(0)",
        r"cannot be imported: .*model\.py:30 `sys.exit\(0\)`: ended",
    ),
    "exit in build": ("build", "sys.exit(0)", r"build\(\) failed: .*model\.py:26 `sys.exit\(0\)`: ended the program"),
    "exit with 3": ("build", "raise SystemExit(3)", r"ended the program \(exit code 3\)"),
    "interruption raised": ("build", "raise KeyboardInterrupt", r"model\.py:26 .*KeyboardInterrupt"),
    "value": ("build", "raise ValueError('odd width')", r"model\.py:26 `raise ValueError.*`: ValueError: odd width"),
    "no error at all": ("build", "raise BaseException", r"model\.py:26 .*: BaseException"),
    "within a library": ("build", "nn.Linear('3', 2)", r"model\.py:26 `nn.Linear\('3', 2\)`: TypeError"),
    "syntax": ("module", "def f(:", r"model\.py:30 `def f\(:`: SyntaxError"),
    "package": ("module", "import nowhere_at_all", "ModuleNotFoundError: .* Install it: pip install nowhere_at_all"),
    "module beside it": (
        "module",
        "import beside",
        r"beside\.py is next to it, but a definition is one file",
    ),
    "class": ("build", "net = Net", "returned type, expected a torch nn.Module"),
    "scripted": ("build", "net = torch.jit.script(net)", "returned TorchScript, expected the nn.Module"),
    "nothing": ("build", "net = None", "returned NoneType, expected a torch nn.Module"),
    "sparse": (
        "build",
        "net.mask = nn.Parameter(torch.eye(2).to_sparse())",
        r"whose mask is sparse \(torch.sparse_coo\), expected a dense tensor: \.to_dense\(\)",
    ),
    "meta": ("build", "net.fc.to('meta')", "whose fc.weight is on the meta device and holds no values"),
    "extra state": ("method", "def get_extra_state(self): return {'a': 1}", "keeps state of type dict"),
    "eval that fails": (
        "method",
        "def train(self, mode): raise TypeError('no')",
        r"evaluation mode.*model\.py:21 .*no",
    ),
}
#: Part and text of definitions that do unusual things, none of which may matter.
ACCEPTED = {
    "types for the whole program": ("module", "torch.set_default_dtype(torch.float64)"),
    "no gradients for the whole program": ("module", "torch.set_grad_enabled(False)"),
    "device for the whole program": ("build", "torch.set_default_device('meta')"),
    "another folder": ("module", "os.chdir('/')"),
    "half": ("build", "net = net.half()"),
    "double": ("build", "net = net.double()"),
    "train that returns nothing": ("method", "def train(self, mode=True): super().train(mode)"),
    "compiled": ("build", "net = torch.compile(net)"),
    "several devices": ("build", "net = nn.DataParallel(net)"),
    "lazy": (
        "build",
        "net.body, net.fc = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten()), nn.LazyLinear(2)",
    ),
    "spectral norm": ("build", "nn.utils.parametrizations.spectral_norm(net.fc)"),
    "in place on its input": ("method", "def forward(self, x): return self.fc(self.body(x.sub_(0.5)))"),
    "lock": ("build", "import threading; net.lock = threading.Lock()"),
    "dataclass": ("module", "from dataclasses import dataclass\n@dataclass\nclass Settings:\n    width: 'int' = 3"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_build_cannot_use_is_one_message(case: str, tmp_path: Path) -> None:
    """File, line and the code's own words; no other exception leaves it."""
    part, text, expected = REFUSED[case]
    (tmp_path / "beside.py").touch()
    with pytest.raises(InputError, match=expected):
        build_network(definition(tmp_path, **{part: text}), {})


def test_closed_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results could not be told."""
    with (tmp_path / "out.txt").open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        file = definition(tmp_path, build="import sys; sys.stdout.close()")
        with pytest.raises(InputError, match="closes standard output or error"):
            build_network(file, {})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch.compile itself
@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_networks_are_stored_and_load_again(case: str, tmp_path: Path) -> None:
    """They answer alike after they were stored; torch's defaults and the folder are as they were."""
    part, text = ACCEPTED[case]
    file = definition(tmp_path, **{part: text})
    before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), Path.cwd()
    model = build_network(file, {})
    assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), Path.cwd()) == before
    initialise_lazy_layers(model, INPUTS)
    check_classifier(model, (1, 1, 12, 12), CLASSES)
    assert {tensor.dtype for tensor in model.state_dict().values()} <= {torch.float32, torch.int64}
    write_original(tmp_path, model, file, {}, INPUTS)
    stored = Artifact(
        form="torch", folder=tmp_path, digest=payload_digest("torch", tmp_path), inputs=INPUTS, outputs=()
    )
    images = torch.randn(3, 1, 12, 12)
    assert torch.equal(load_network(stored)(images.clone()), model(images.clone()))


FINETUNE = "stages:\n  - {kind: finetune, epochs: 1, batch: 16, learning_rate: 0.01}\n"
#: Part and text -> what a run that trains says.
UNTRAINABLE = {
    "frozen": ("build", "net.requires_grad_(False)", r"all of them are frozen \(requires_grad=False\)"),
    "no gradients": ("forward", "y = y.detach()", r"computes without gradients \(torch.no_grad, detach\)"),
    "in place": ("forward", "y = y.sigmoid().mul_(2)", r"writes in place into a value that its own gradient needs"),
    "exit": ("forward", "self.training and sys.exit(0)", r"finetune failed: .*model\.py:18 .*ended the program"),
    "error": ("forward", "assert not self.training, 'me'", r"finetune failed: .*model\.py:18 .*AssertionError: me"),
    "loss": ("forward", "y = [y.sum()] if self.training else y", r"expected the logits \(16, 2\), alone or first"),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_what_cannot_be_trained_is_bad_input(case: str, project: Project) -> None:
    """The stage is named, the line is that of the user's own file and not of the stored copy, and run.json says so."""
    part, text, expected = UNTRAINABLE[case]
    definition(project.folder, **{part: text})
    head = project.recipe.read_text().partition("stages:")[0].replace(", arguments: {classes: 2}", "")
    project.recipe.write_text(head + FINETUNE)
    run = Run(load_recipe(project.recipe, ()), project.folder / "run", Store(project.folder / "store"))
    with pytest.raises(InputError, match=expected) as caught:
        run.execute()
    assert "store" not in str(caught.value)
    assert '"status": "failed"' in (project.folder / "run" / "run.json").read_text()


def test_auxiliary_heads_are_left_out_of_training(project: Project) -> None:
    """A network that returns more while it trains is trained on what it returns otherwise."""
    definition(
        project.folder, build="net.aux = nn.Linear(2, 2)", forward="y = (net_aux(self, y), y) if self.training else y"
    )
    with (project.folder / "model.py").open("a") as file:
        file.write("\n\ndef net_aux(self, y):\n    return self.aux(y)\n")
    head = project.recipe.read_text().partition("stages:")[0].replace(", arguments: {classes: 2}", "")
    project.recipe.write_text(head + FINETUNE)
    run = Run(load_recipe(project.recipe, ()), project.folder / "run", Store(project.folder / "store"))
    run.execute()
    before, after = (load_network(artifact).state_dict() for artifact in run.artifacts)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {"fc.weight", "body.0.weight"} <= changed
    assert not {"aux.weight", "aux.bias"} & changed


LOAD_EXITS = "def load():\n    raise SystemExit(print('reading'))\n"


@pytest.mark.parametrize("where", ["import", "load"])
def test_a_data_file_that_ends_the_program_ends_it_with_an_error(where: str, project: Project) -> None:
    """Exit code 2 and one message; what it prints is no output, and the traceback comes where it is asked for."""
    text = "import sys\nprint('reading'), sys.exit(0)\n" if where == "import" else LOAD_EXITS
    (project.folder / "data.py").write_text(text)
    found = project.command("run", "toy.yaml")
    assert (found.returncode, found.stdout) == (2, "")
    assert "data.py:2 `" in found.stderr
    assert "ended the program (exit code 0); raise an error instead" in found.stderr
    assert "reading" in found.stderr
    assert "Traceback" not in found.stderr
    project.environment["SECATEUR_TRACEBACK"] = "1"
    assert "Traceback" in project.command("run", "toy.yaml").stderr

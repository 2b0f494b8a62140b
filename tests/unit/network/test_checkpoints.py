"""Checkpoints as people have them: what is the network in them is found, and what is not said is refused in words."""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.network.checkpoints import leading_name
from pipeline.network.shards import weight_files
from pipeline.network.weights import Unfit, load_weights, read_weights


def network() -> nn.Sequential:
    """Return a network of six tensors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3))


def own(change: float = 1.0, prefix: str = "") -> dict[str, Tensor]:
    """Return its tensors with other values, under these names."""
    return {f"{prefix}{name}": tensor * 0 + change for name, tensor in network().state_dict().items()}


def optimizer() -> dict[str, Any]:
    """Return the state of an optimizer that has taken a step."""
    model = network()
    made = torch.optim.AdamW(model.parameters())
    model[2](torch.ones(1, 4)).sum().backward()
    made.step()
    return made.state_dict()


BESIDE = {"epoch": 3, "best": np.float64(0.93), "args": argparse.Namespace(lr=0.1, out=Path("out")), "seed": None}
#: What a file holds -> nothing that has to be said about it.
FOUND: dict[str, dict[str, Any]] = {
    "plain": own(),
    **{
        f"under {name}": {name: own(), "optimizer": optimizer(), **BESIDE}
        for name in ("state_dict", "model_state_dict", "model", "ema", "net")
    },
    "an entry of an entry": {"ema": {"decay": 0.99, "module": own()}, **BESIDE},
    **{
        f"names with {prefix}": {"state_dict": own(prefix=prefix)}
        for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone.")
    },
    "half": {name: tensor.half() for name, tensor in own().items()},
    "bfloat16": {"model": {name: tensor.bfloat16() for name, tensor in own().items()}},
}


@pytest.mark.parametrize("case", FOUND)
def test_the_network_is_found(case: str, tmp_path: Path) -> None:
    """Beside optimizers, options and counters, whatever stands before its names."""
    torch.save(FOUND[case], tmp_path / "c.pt")
    model = network()
    assert load_weights(model, read_weights(tmp_path / "c.pt"), "c.pt") == Unfit()
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in model.state_dict().values())


def test_one_of_several_networks_has_to_be_named(tmp_path: Path) -> None:
    """With the ones that are there; an entry of an entry by a dot."""
    torch.save({"model": own(1), "ema": {"shadow": own(2)}, "epoch": 3}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"networks: model \(6 tensors\), ema.shadow \(6 .*weights_key: model"):
        read_weights(tmp_path / "c.pt")
    assert float(read_weights(tmp_path / "c.pt", "ema.shadow")["2.bias"][0]) == 2
    with pytest.raises(InputError, match=r"no tensors by name as ema; found: model, ema.shadow: change"):
        read_weights(tmp_path / "c.pt", "ema")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_one_network(tmp_path: Path, suffix: str) -> None:
    """Each tensor from the file that the index names; all of them are what the weights are identified by."""
    tensors, index = own(), tmp_path / f"model.{suffix}.index.json"
    names = [*tensors]
    places = {name: f"model-{1 + number // 4}-of-2.{suffix}" for number, name in enumerate(names)}
    for file in dict.fromkeys(places.values()):
        part = {name: tensors[name] for name in names if places[name] == file}
        (save_file if suffix == "safetensors" else torch.save)(part, tmp_path / file)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert read_weights(index).keys() == tensors.keys()
    assert [file.name for file in weight_files(index)] == [index.name, *dict.fromkeys(places.values())]
    (tmp_path / places[names[-1]]).unlink()
    with pytest.raises(InputError, match=r"names model-2-of-2.*, which is not beside it: download all shards"):
        weight_files(index)
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "more"], places[names[0]])}))
    with pytest.raises(InputError, match=r"lack .*, which .*index.json says is there"):
        read_weights(index)
    for damaged in ({}, {"weight_map": {}}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="has no weight_map"):
            weight_files(index)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere"}}))
    with pytest.raises(InputError, match="allowed: files beside it"):
        weight_files(index)


class Runs:
    """Would do as it likes when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what is called then."""
        return (print, ("this must not be printed",))


def test_objects_and_programs_are_refused_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pickled module, TorchScript, and code in disguise: nothing of it runs."""
    torch.save(network(), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"an object of torch\.nn\..*Sequential, .* save model.state_dict"):
        read_weights(tmp_path / "module.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:  # as torch.jit.save writes it
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    with pytest.raises(InputError, match=r"it is TorchScript, which is a program. .*torch.jit.load\('script.pt'\)"):
        read_weights(tmp_path / "script.pt")
    torch.save({"model": own(), "hook": Runs()}, tmp_path / "code.pt")
    with pytest.raises(InputError, match=r"an object of print"):
        read_weights(tmp_path / "code.pt")
    assert "must not" not in capsys.readouterr().out
    torch.save({"epoch": 3, "optimizer": optimizer()}, tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"with epoch \(int\), optimizer \(dict\), expected a dictionary of tensors"):
        read_weights(tmp_path / "none.pt")


def test_what_does_not_fit_is_left_and_listed_if_that_is_asked_for() -> None:
    """A head of other classes, one that is missing, and what belongs to the training alone."""
    given = {**own(), "2.weight": torch.ones(7, 4), "criterion.weight": torch.ones(3)}
    del given["2.bias"]
    model, before = network(), network().state_dict()
    with pytest.raises(InputError, match=r"1 missing, 1 unknown, 1 shape(.|\n)*model.strict: false leaves"):
        load_weights(model, given, "w.pt")
    unfit = load_weights(model, given, "w.pt", strict=False)
    assert unfit.record() == {
        "missing": ["2.bias (3,)"],
        "unknown": ["criterion.weight (3,)"],
        "shape": ["2.weight is (7, 4), the model has (3, 4)"],
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("2.") else torch.ones_like(tensor))


def test_names_of_which_none_fits_show_the_nearest() -> None:
    """Also where less than everything would do."""
    for strict in (True, False):
        with pytest.raises(InputError, match=r"No name fits: .*0.weight may be conv0.weight.*strip_prefix"):
            load_weights(network(), {"conv0.weight": torch.ones(4, 1, 3, 3)}, "w.pt", strict=strict)


def test_a_prefix_may_be_given() -> None:
    """It wins over what would be found; one that no name has is refused."""
    both = {**own(1, "student."), **own(2, "teacher.")}
    assert leading_name(both, network().state_dict()) == ""
    model = network()
    unfit = load_weights(model, both, "w.pt", prefix="teacher.", strict=False)
    assert float(model.state_dict()["2.bias"][0]) == 2
    assert len(unfit.unknown) == 6
    with pytest.raises(InputError, match=r"no name that begins with ema\., .*change model.strip_prefix"):
        load_weights(model, both, "w.pt", prefix="ema.")

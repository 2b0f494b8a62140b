"""Models and data of the user's that raise, end the program, or give something else than they should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.project import DATA, DEFINITION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Commands, Ended
    from tests.torture.tally import Tally

pytestmark = pytest.mark.slow
WORDS = "my own words"
RAISED = [
    *(
        f'raise {name}("{WORDS}")'
        for name in ("ValueError", "TypeError", "KeyError", "RuntimeError", "OSError", "StopIteration")
    ),
    *(
        f'raise {name}("{WORDS}")'
        for name in ("AssertionError", "RecursionError", "MemoryError", "ImportError", "SyntaxError")
    ),
    *(f'raise {name}("{WORDS}")' for name in ("GeneratorExit", "BaseException", "SystemExit", "NotImplementedError")),
    *("import sys; sys.exit(0)", "import sys; sys.exit(7)", "raise SystemExit", "1 / 0", "import os; open('nowhere')"),
    *("import no_such_package", "this is no python"),
]
#: Where it is raised: the file, the text that it stands before, and how deep.
PLACES = {
    "model.py, at its top": ("model.py", DEFINITION, "class Block", 0),
    "build": ("model.py", DEFINITION, "    return Toy(", 4),
    "forward": ("model.py", DEFINITION, "        return self.fc(", 8),
    "data.py, at its top": ("data.py", DATA, "def split", 0),
    "load": ("data.py", DATA, "    names =", 4),
}
#: Other bodies of `forward` of the whole network, which are not what a recipe needs.
ANSWERS = [
    *(
        "None",
        "5",
        "'text'",
        "[x]",
        "(x, x)",
        "{'out': x}",
        "x[0]",
        "x.sum()",
        "x.long()",
        "x * float('nan')",
        "x.double()",
    ),
    *("x.to(torch.complex64)", "x[:, :1]", "x[:1]", "x.detach().numpy()", "torch.rand_like(x)", "x + torch.randn(1)"),
    *("x if x.sum() > 0 else -x", "x / 0", "x.to_sparse()", "x.to('meta')", "torch.nn.functional.dropout(x)"),
]
#: Lines before the return of `build`, with the network as `net`.
NETWORKS = [
    *("net = None", "net = 3", "net = torch.nn.Identity()", "net = Toy", "net = torch.jit.script(net)", "net.train()"),
    *(
        "[p.requires_grad_(False) for p in net.parameters()]",
        "net = net.to('meta')",
        "net = net.double()",
        "net = net.half()",
    ),
    *(
        "net.fc = torch.nn.LazyLinear(classes)",
        "net.blocks[1] = net.blocks[0]",
        "net.forward = lambda x: x.mean((2, 3))",
    ),
    *("net.fc.weight = net.stem.weight", "net.extra = torch.nn.Parameter(torch.zeros(0))", "net.apply(print)"),
    *("net.stem.weight.data[:] = float('nan')", "net.stem.weight.data[:] = 1e38", "import os; os.chdir('/')"),
    *(
        "import sys; sys.stdout.close(); sys.stderr.close()",
        "net.bn.track_running_stats = False",
        "net.fc = torch.nn.Linear(16, 3)",
    ),
    *(
        "net.register_buffer('odd name', torch.zeros(2))",
        "net.add_module('a-b', torch.nn.ReLU())",
        "torch.set_default_dtype(torch.float64)",
    ),
]
#: What `load` of the data gives in place of a dataset, with the right one as `data`.
DATASETS = [
    *(
        "None",
        "5",
        "[data]",
        "{'train': data.train}",
        "(data.train, data.validation)",
        "data.train",
        "Dataset",
        "'text'",
    ),
]


def models() -> dict[str, tuple[str, str, bool]]:
    """Return, by name, the file that is changed, its text, and whether it cannot be right."""
    found: dict[str, tuple[str, str, bool]] = {}
    for place, (file, text, before, deep) in PLACES.items():
        for line in RAISED:
            found[f"{line} in {place}"] = (file, text.replace(before, f"{' ' * deep}{line}\n{before}", 1), True)
    head = f"import torch\n{DEFINITION}"
    final = "return self.fc(self.blocks(self.bn(self.stem(images)).relu()).mean((2, 3)))"
    for answer in ANSWERS:
        changed = head.replace(final, f"{final.replace('return', 'x =')}\n        return {answer}")
        found[f"forward gives {answer}"] = ("model.py", changed, False)
    for line in NETWORKS:
        changed = head.replace(
            "    return Toy(classes, width)", f"    net = Toy(classes, width)\n    {line}\n    return net"
        )
        found[f"build has {line}"] = ("model.py", changed, False)
    for answer in DATASETS:
        changed = DATA.replace("    return Dataset(", "    data = Dataset(") + f"    return {answer}\n"
        found[f"load gives {answer}"] = ("data.py", changed, True)
    return found


def judged(ended: Ended, file: str, fails: bool, words: bool) -> str:  # noqa: FBT001 - columns of the table
    """Return what is wrong: what fails names its file and repeats the words of the exception."""
    wrong = ended.wrong(*((2, 3) if fails else (0, 2, 3, 6)))
    if not wrong and ended.code:
        missing = [text for text in (file, *([WORDS] if words else [])) if text not in ended.err]
        wrong = f"the message lacks {missing}: {ended.err.strip()[-300:]}" if missing and fails else ""
    return wrong


@pytest.mark.parametrize("part", range(4))
def test_odd_user_code(
    commands: Commands, small_project: Callable[[Path], Path], tally: Tally, tmp_path: Path, part: int
) -> None:
    """Taken and right, or refused with the file, and the words of its own exception."""
    cases = list(models().items())
    for number, (name, (file, text, fails)) in enumerate(cases if tally.full else cases[::16]):
        if number % 4 == part:
            folder = small_project(tmp_path / str(number))
            (folder / file).write_text(text)
            ended = commands.run(folder, "run", "toy.yaml", environment={"SECATEUR_STORE": str(folder / "store")})
            tally.add("odd user code", name, judged(ended, file, fails, WORDS in text))

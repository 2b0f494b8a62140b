"""The kits by the name of their kind. They and their neighbours but `config.py` run on a board.

Each file stands for one kind. It imports only the standard library, numpy and its neighbours here; torch is imported
inside the functions of training.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: The class of each kind, in the module of that name.
KITS = {
    "classification": "Classification",
    "multilabel": "Multilabel",
    "segmentation": "Segmentation",
    "detection": "Detection",
    "regression": "Regression",
    "token": "Token",
    "embedding": "Embedding",
}


def open_kit(kind: str, **settings: Any) -> Any:
    """Return the kit of a kind with these settings, which it keeps as `settings`: a bundle makes the same one of them.

    Raises:
        ValueError: there is no such kind, or a setting has no such value.
        TypeError: there is no such setting.
    """
    if kind not in KITS:
        raise ValueError(f"task kind {kind!r} does not exist; allowed: {', '.join(KITS)}")
    kit = getattr(import_module(f".{kind}", __package__), KITS[kind])(**settings)
    kit.settings = settings
    return kit

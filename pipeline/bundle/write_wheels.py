"""Writes wheels.json anew for the versions that are installed here; it asks pip, which needs an index."""

from __future__ import annotations

import argparse

from pipeline.bundle.json_text import json_text
from pipeline.bundle.requirements import pinned
from pipeline.bundle.wheels import KNOWN, PLACES, ask_pip
from pipeline.core.runtimes import shipping_runtimes


def main() -> None:
    """Write wheels.json for the versions that are installed here."""
    argparse.ArgumentParser(prog="python -m pipeline.bundle.write_wheels", description=__doc__).parse_args()
    pins = sorted({pin for runtime in shipping_runtimes() for pin in pinned(runtime)})
    asked = {place: ask_pip(pins, place) for place in PLACES}
    wheels = {pin: {place: list(asked[place][pin]) for place in PLACES} for pin in pins}
    KNOWN.write_text(json_text({"schema_version": 1, "wheels": wheels}), encoding="utf-8")


if __name__ == "__main__":
    main()

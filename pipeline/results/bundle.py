"""What is said of an edge bundle: the options of making one, and its manifest.json.

A bundle is a folder that runs without this program: model files, code for inference and verification, samples with
expected outputs, and where all of it came from. manifest.json names every file beside itself, SHA256SUMS and the
signature; SHA256SUMS covers manifest.json and everything that it names.
"""

from __future__ import annotations

from functools import partial
from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pipeline.core.artifact import FrozenModel, StageRecord
from pipeline.core.one_of import one_of
from pipeline.core.runtimes import shipping_runtimes
from pipeline.core.stage import Target
from pipeline.results.comparison import result_schema
from pipeline.results.run import BudgetLine, FinalTest, Score, Timing

SCHEMA_VERSION: Literal[1] = 1
MANIFEST_FILE = "manifest.json"
SUMS_FILE = "SHA256SUMS"
SIGNATURE_FILE = "SHA256SUMS.minisig"
#: What a licence is called where nobody said one.
NOT_STATED = "not stated"

#: Runtimes that a bundle's own code can use.
DeviceRuntime = Annotated[str, one_of(shipping_runtimes)]
SampleSource = Literal["auto", "validation", "synthetic"]
Storage = Literal["plain", "packed"]
#: How the name of a packed model file ends, and the program that unpacks it.
PACKED_SUFFIX, UNPACK_FILE = ".packed", "unpack.py"
#: Names in a bundle are plain ASCII with `/` between folders, so that they mean the same on every system.
NAME = r"^[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?(/[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?)*$"
Name = Annotated[str, StringConstraints(pattern=NAME)]


class BundleOptions(FrozenModel):
    """What a person may choose about a bundle; the fields of the stage `bundle` are the same."""

    samples: int = Field(default=4, ge=1, le=64, description="Samples with expected outputs, for the self-test.")
    sample_source: SampleSource = Field(
        default="auto",
        description="`validation`: those of the validation split; `synthetic`: generated ones; `auto`: validation "
        "samples if the data's licence lets anyone pass them on, else synthetic.",
    )
    data_licence: str | None = Field(
        default=None,
        min_length=1,
        description="Licence of the data (SPDX id or text); absent: what the data set itself says.",
    )
    weights_licence: str | None = Field(
        default=None, min_length=1, description="Licence of the weights; absent: what the model's card.md says."
    )
    storage: Storage = Field(
        default="plain",
        description="`packed`: model files in fewer bytes (`secateur pack`), which the bundle's code unpacks in memory "
        "when it loads them; `plain`: files that any program can load.",
    )
    runtimes: tuple[DeviceRuntime, ...] | None = Field(
        default=None, min_length=1, description="Runtimes to ship files for; absent: every exported form of the run."
    )


class BundledFile(FrozenModel):
    """One file of a bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)


class Licences(FrozenModel):
    """Under which terms the parts of a bundle may be passed on; `not stated` where nobody said."""

    weights: str
    data: str
    samples: str


class BundledAccuracy(FrozenModel):
    """Accuracy of the original's and the result's exported files: on validation images, and of the final test."""

    validation_original: Score | None = None
    validation_result: Score | None = None
    test: FinalTest | None = None


class BundledLatency(FrozenModel):
    """Latency of a shipped file, or of the original's FP32 export, where `file` is absent."""

    label: str
    file: Name | None = None
    timing: Timing


class Manifest(FrozenModel):
    """manifest.json: every file with its digest, and everything that is known about how they came to be.

    `dynamic` has the sizes beside the batch that the model files leave open, by name: the axis of each input that has
    it, the batch being 0. `main` is the model file of each runtime, `runtime` the one that the bundle's code uses by
    default. `lineage` has one record per stage, oldest first. `machine` is the fingerprint of the one that measured.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    secateur: str
    name: str
    files: dict[Name, BundledFile]
    main: dict[DeviceRuntime, Name] = Field(min_length=1)
    runtime: DeviceRuntime
    lineage: tuple[StageRecord, ...]
    recipe: dict[str, Any]
    recipe_digest: str
    data: dict[str, Any]
    seed: int
    versions: dict[str, str]
    target: Target
    dynamic: dict[str, dict[str, int]] = Field(default={}, exclude_if=not_)
    machine: dict[str, Any]
    accuracy: BundledAccuracy
    latency: tuple[BundledLatency, ...] = ()
    budget: tuple[BudgetLine, ...] = ()
    licences: Licences


#: The function that returns the JSON Schema (2020-12) which `secateur schema bundle` prints.
schema = partial(result_schema, Manifest)

"""Bundle: the run ends with a folder that a device needs nothing beside Python, numpy and a runtime to run.

The stage itself changes nothing and carries what was chosen; the run writes `bundle/` and `bundle.tar.gz` after the
final test, for accuracy and latency are part of the manifest. `secateur bundle RUN` makes one of any finished run.

Source: the manifest follows the idea of in-toto and SLSA provenance (what, from what, how), the bill of materials is
CycloneDX 1.6 (ECMA-424). It does not help against someone who rewrites all of it, unless it is signed or its digest is
known from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.core.artifact import Form
from pipeline.core.runtimes import exported_forms
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.results.bundle import BundleOptions

if TYPE_CHECKING:
    from pipeline.core.artifact import Artifact


class Bundle(BundleOptions, Stage):
    """The exported files with code to run them, samples to check them, and where they came from."""

    brings_no_gain: ClassVar[str] = "bundle changes no file"
    revision: ClassVar[int] = 1
    last: ClassVar[bool] = True
    makes_file: ClassVar[bool] = False
    effect: ClassVar[str] = "bundle"
    takes: ClassVar[frozenset[Form]] = frozenset(exported_forms())

    kind: Literal["bundle"] = "bundle"

    def bundle_options(self) -> dict[str, Any]:
        """Return what was chosen about the bundle."""
        return self.model_dump(include=set(BundleOptions.model_fields))

    def run(self, given: Artifact, context: Context) -> Outcome:  # noqa: ARG002 - the run writes the bundle at its end
        """Do nothing: what a bundle says is known after the final test."""
        return Outcome(form=None)

"""What is in a bundle: the files that ship, a manifest that says where they came from, and always the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ruamel.yaml import YAML

from pipeline.bundle.assemble import content_of
from pipeline.bundle.place import write_bundle
from pipeline.bundle.selection import default_runtime, shipping_rows
from pipeline.core.errors import InputError
from pipeline.data.arrays import image_classifier
from pipeline.results.bundle import BundleOptions, Manifest, schema
from tests.unit.bundle.small_content import content, dataset
from tests.unit.bundle.tampering import sha256
from tests.unit.bundle.test_archive import files

if TYPE_CHECKING:
    from pipeline.results.run import Row, RunReport

ROOT = Path(__file__).parents[3]
BUILD = """
import sys
from pathlib import Path
from pipeline.bundle.place import write_bundle
from tests.unit.bundle.small_content import content
folder = Path(sys.argv[1])
print(write_bundle(content(folder / "run"), (folder / "bundle", folder / "bundle.tar.gz")))
"""


def built_elsewhere(folder: Path, *, umask: int, **environment: str) -> dict[str, str]:
    """Make the same bundle in another process, folder, time zone and language; return its files with their sha256."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        capture_output=True,
        text=True,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    return {**files(folder / "bundle"), "archive": sha256(folder / "bundle.tar.gz")}


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """From another folder, at another time, under another umask, in another time zone, language and hash seed."""
    time.sleep(1.1)  # another second: file times and gzip's header count in seconds
    first = {**files(made / "bundle"), "archive": sha256(made / "bundle.tar.gz")}
    odd = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7", "USER": "nobody"}
    again = built_elsewhere(tmp_path / "a folder of another name", umask=0o077, **odd)
    assert again == first
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "a folder of another name" / "bundle").rglob("*")}
    assert modes == {0o755, 0o644}


def test_every_file_is_there(made: Path) -> None:
    """The folder has what its page says, and both lists of files name it."""
    names = set(files(made / "bundle"))
    manifest = json.loads((made / "bundle" / "manifest.json").read_text())
    sums = {line.split("  ")[1] for line in (made / "bundle" / "SHA256SUMS").read_text().splitlines()}
    assert set(manifest["files"]) == names - {"manifest.json", "SHA256SUMS"}
    assert sums == names - {"SHA256SUMS"}
    assert names >= {
        *("model/model.onnx", "model/model.xml", "model/model.bin", "preprocess.json", "labels.txt", "infer.py"),
        *("self_test.py", "verify.py", "samples/expected.json", "samples/0.png", "requirements.txt", "sbom.cdx.json"),
        *("MODEL_CARD.md", "recipe.yaml"),
    }


def test_manifest(made: Path) -> None:
    """It reads back as its type, in the order of its keys, and says what the run found."""
    text = (made / "bundle" / "manifest.json").read_text()
    manifest = Manifest.model_validate_json(text, strict=True)
    plain = json.loads(text)
    assert set(plain) == set(schema()["required"]) == set(schema()["properties"]) - {"dynamic"}  # all sizes are fixed
    assert list(plain) == sorted(plain)
    assert text.endswith("\n")
    assert manifest.main == {"onnxruntime": "model/model.onnx", "openvino": "model/model.xml"}
    assert manifest.runtime == "onnxruntime"
    assert [record.kind for record in manifest.lineage] == ["prune", "export", "export"]
    assert manifest.accuracy.test is not None
    assert manifest.accuracy.validation_result is not None
    assert [(each.label, each.file) for each in manifest.latency] == [
        ("original", None),
        ("export", "model/model.onnx"),
    ]
    assert manifest.latency[1].timing.speedup is not None
    assert manifest.licences.data == "MIT"


def test_nothing_of_this_machine(made: Path) -> None:
    """No path of the run's folder, no home, no name stands in any file."""
    forbidden = (str(made), str(Path.home()), str(ROOT))
    for path in (made / "bundle").rglob("*"):
        if path.is_file():
            content_of_file = path.read_bytes()
            assert not [text for text in forbidden if text.encode() in content_of_file], path


def test_recipe_reads_back(made: Path) -> None:
    """The recipe is YAML with the run's values in their order."""
    read = YAML(typ="safe").load((made / "bundle" / "recipe.yaml").read_text())
    assert read == {"name": "patterns on a small board", "model": {"definition": "net.py"}, "stages": []}
    assert list(read) == ["name", "model", "stages"]


def test_the_bundle_does_not_share_files_with_the_run(tmp_path: Path) -> None:
    """A change in the run's folder is none in the bundle."""
    given = content(tmp_path / "run", runtimes=("onnxruntime",))
    write_bundle(given, (tmp_path / "bundle",))
    assert {path.stat().st_nlink for path in (tmp_path / "bundle").rglob("*") if path.is_file()} == {1}


# -- which files ship --------------------------------------------------------------------------------------------------


def rows_of(report: RunReport, *kinds: tuple[str, str]) -> RunReport:
    """Return a report with further rows of (kind, form); each has a file of its own unless it only looks."""
    rows = list(report.rows)
    for kind, form in kinds:
        looks = kind in {"measure", "bundle"}
        digest = rows[-1].digest if looks else str(len(rows)) * 64
        update = {"index": len(rows), "label": kind, "kind": kind, "form": form, "digest": digest}
        update |= {"makes_file": not looks}
        rows.append(rows[1].model_copy(update={**update, "folder": f"stages/{len(rows):02}-{kind}"}))
    return report.model_copy(update={"rows": tuple(rows)})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    """Return the report of a run that exported to ONNX."""
    return content(tmp_path_factory.mktemp("report") / "run", runtimes=("onnxruntime",)).report


def labels(rows: dict[str, Row]) -> dict[str, int]:
    """Return the index of the row whose file ships, by runtime."""
    return {runtime: row.index for runtime, row in rows.items()}


def test_the_last_file_of_each_form_ships(report: RunReport) -> None:
    """Stages that only look have no file; one that was skipped does not count."""
    found = rows_of(
        report, ("quantize", "onnx"), ("export", "openvino"), ("measure", "openvino"), ("bundle", "openvino")
    )
    assert labels(dict(shipping_rows(found, BundleOptions()))) == {"onnxruntime": 2, "openvino": 3}
    skipped = found.rows[2].model_copy(
        update={"changed": {"gain": {"decision": "skipped", "runtime": "onnxruntime", "text": "0.9x"}}}
    )
    found = found.model_copy(update={"rows": (*found.rows[:2], skipped, *found.rows[3:])})
    assert labels(dict(shipping_rows(found, BundleOptions()))) == {"onnxruntime": 1, "openvino": 3}


def test_openvino_reads_onnx_where_it_is_wanted(report: RunReport) -> None:
    """It ships for OpenVINO when the target or the option says so, not by itself."""
    target = report.target.model_copy(update={"runtime": "openvino"})
    assert labels(dict(shipping_rows(report, BundleOptions()))) == {"onnxruntime": 1}
    assert labels(dict(shipping_rows(report, BundleOptions(runtimes=("openvino",))))) == {"openvino": 1}
    for_openvino = report.model_copy(update={"target": target})
    rows = shipping_rows(for_openvino, BundleOptions())
    assert labels(dict(rows)) == {"onnxruntime": 1, "openvino": 1}
    assert default_runtime(for_openvino, rows) == "openvino"
    assert (
        default_runtime(for_openvino, shipping_rows(for_openvino, BundleOptions(runtimes=("onnxruntime",))))
        == "onnxruntime"
    )


def test_runs_that_cannot_ship(report: RunReport, tmp_path: Path) -> None:
    """One message each: not finished, nothing exported, files that are gone, changed or of another run."""

    def refused(changed: RunReport, options: BundleOptions | None = None) -> str:
        with pytest.raises(InputError) as error:
            content_of(changed, tmp_path, image_classifier(dataset()), options or BundleOptions())
        return str(error.value)

    assert "interrupted" in refused(report.model_copy(update={"status": "interrupted"}))
    assert "no tea" in refused(report.model_copy(update={"status": "failed", "error": "no tea"}))
    assert "exports no file" in refused(report.model_copy(update={"rows": report.rows[:1]}))
    torch = report.rows[1].model_copy(update={"form": "openvino"})
    no_onnx = report.model_copy(update={"rows": (report.rows[0], torch)})
    assert "onnxruntime reads none" in refused(no_onnx, BundleOptions(runtimes=("onnxruntime",)))
    assert "are gone; run the recipe again" in refused(report)


def test_files_of_the_run_that_are_gone_or_others(tmp_path: Path) -> None:
    """The message names the folder and says to run again."""
    given = content(tmp_path / "run", runtimes=("onnxruntime",))
    file = given.files["onnxruntime"]
    other = given.report.rows[1].model_copy(update={"digest": "5" * 64})
    changed = given.report.model_copy(update={"rows": (given.report.rows[0], other)})
    with pytest.raises(InputError, match=r"03-export: .*not those of run.json; run the recipe again"):
        content_of(changed, given.run_folder, given.task, given.options)
    file.unlink()
    with pytest.raises(InputError, match=r"03-export: a file .* is gone; run the recipe again"):
        content_of(given.report, given.run_folder, given.task, given.options)


def test_openvino_alone(tmp_path: Path) -> None:
    """A run that ends with OpenVINO's form alone ships that, and the final test speaks of another file."""
    write_bundle(content(tmp_path / "run", runtimes=("openvino",)), (tmp_path / "bundle",))
    manifest = Manifest.model_validate_json((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest.main == {"openvino": "model/model.xml"}
    assert manifest.accuracy.test is None
    assert not (tmp_path / "bundle" / "model" / "model.onnx").exists()

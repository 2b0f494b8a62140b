"""The bill of materials is CycloneDX 1.6 and says what is in the bundle and what it needs."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.bundle.bill import package_licence, write_bill
from pipeline.bundle.requirements import pinned, write_requirements
from tests.unit.bundle.small_content import content, dataset

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bundle.content import Content


def bill_of(made: Content, folder: Path) -> dict[str, Any]:
    """Write the bill of a bundle with the model files of a run, and return it."""
    (folder / "model").mkdir(parents=True)
    for file in made.files.values():
        for part in file.parent.glob("model.*"):
            shutil.copy(part, folder / "model")
    write_bill(made, folder)
    text = (folder / "sbom.cdx.json").read_text()
    # Compiles grammars when it is imported: seconds that the collection of tests need not take.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found: dict[str, Any] = json.loads(text)
    return found


def test_files_packages_and_data(tmp_path: Path) -> None:
    """Every model file with its hash, every pinned package once, the data set with its licence."""
    found = bill_of(content(tmp_path / "run", dataset(licence="CC-BY-NC-SA-4.0")), tmp_path / "bundle")
    by_type = {kind: [each for each in found["components"] if each["type"] == kind] for kind in ("data", "library")}
    models = {each["name"]: each for each in found["components"] if each["type"] == "machine-learning-model"}
    assert sorted(models) == ["model/model.bin", "model/model.onnx", "model/model.xml"]
    for name, model in models.items():
        sha256 = hashlib.sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest()
        assert model["hashes"] == [{"alg": "SHA-256", "content": sha256}]
    pins = {*pinned("onnxruntime"), *pinned("openvino")}
    assert {f"{each['name']}=={each['version']}" for each in by_type["library"]} == pins
    assert all(each["licenses"] and each["purl"].startswith("pkg:pypi/") for each in by_type["library"])
    assert [each["name"] for each in by_type["data"]] == ["drawn"]
    assert by_type["data"][0]["licenses"][0]["license"]["id"] == "CC-BY-NC-SA-4.0"
    assert len(found["components"]) == len(models) + len(pins) + 1


def test_hashes_are_those_of_the_requirements(tmp_path: Path) -> None:
    """Who checks the bill and who installs by the requirements look at the same wheels."""
    made = content(tmp_path / "run", runtimes=("onnxruntime",))
    found = bill_of(made, tmp_path / "bundle")
    write_requirements(made, tmp_path)
    references = [each for part in found["components"] for each in part.get("externalReferences", ())]
    hashes = {each["hashes"][0]["content"] for each in references}
    stated = (tmp_path / "requirements.txt").read_text().replace("--hash=sha256:", "\n").split()
    assert hashes == {word for word in stated if len(word) == 64}


def test_what_needs_what(tmp_path: Path) -> None:
    """The bundle needs models and packages, a runtime its own packages, and models came of the data."""
    found = bill_of(content(tmp_path / "run", runtimes=("onnxruntime",)), tmp_path / "bundle")
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in found["dependencies"]}
    names = {each["bom-ref"]: each["name"] for each in found["components"]}
    runtime = next(ref for ref, name in names.items() if name == "onnxruntime")
    assert {names[ref] for ref in needs[runtime]} == {"flatbuffers", "numpy", "packaging", "protobuf"}
    assert needs["bundle"] == set(names) - {"data"}
    assert needs["model/model.onnx"] == {"data"}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """No clock and no chance: the serial number is that of the content, and another content has another."""
    made = content(tmp_path / "run", runtimes=("onnxruntime",))
    one, two = (bill_of(made, tmp_path / name) for name in ("one", "two"))
    assert (tmp_path / "one/sbom.cdx.json").read_bytes() == (tmp_path / "two/sbom.cdx.json").read_bytes()
    assert "timestamp" not in one["metadata"]
    other = bill_of(content(tmp_path / "other", runtimes=("onnxruntime",), scale=2.0), tmp_path / "three")
    assert one["serialNumber"] == two["serialNumber"] != other["serialNumber"]


@pytest.mark.parametrize(("said", "expected"), [(None, []), ("MIT", ["MIT"]), ("ours, ask us", ["ours, ask us"])])
def test_licence_of_the_weights(tmp_path: Path, said: str | None, expected: list[str]) -> None:
    """An identifier stays one, other text is a name, and where nobody said one there is none."""
    made = content(tmp_path / "run", runtimes=("onnxruntime",), weights_licence=said)
    found = bill_of(made, tmp_path / "bundle")
    model = next(each for each in found["components"] if each["name"] == "model/model.onnx")
    licences = [each["license"] for each in model.get("licenses", ())]
    assert [each.get("id") or each["name"] for each in licences] == expected


def test_licences_of_packages_in_their_usual_words() -> None:
    """What metadata calls by a name has the identifier of that name."""
    names = ("onnxruntime", "flatbuffers", "openvino", "openvino-telemetry", "protobuf", "packaging")
    expected = ["MIT", "Apache-2.0", "Apache-2.0", "Apache-2.0", "BSD-3-Clause", "Apache-2.0 OR BSD-2-Clause"]
    assert [package_licence(name) for name in names] == expected
    assert "BSD-3-Clause" in package_licence("numpy")

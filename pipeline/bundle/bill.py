"""Bill of materials of a bundle: sbom.cdx.json, CycloneDX 1.6.

It lists the model files with their hashes, the packages that the requirements pin, with licences and the hashes of
their wheels, and the data that the network was trained on. It has no timestamp: its serial number follows from its
content.
"""

from __future__ import annotations

import json
import uuid
from importlib.metadata import metadata
from typing import TYPE_CHECKING, Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from pipeline import __version__
from pipeline.bundle.json_text import json_text
from pipeline.bundle.licences import data_licence, weights_licence
from pipeline.bundle.requirements import needed_by, pinned
from pipeline.bundle.wheels import wheels_of
from pipeline.core.artifact import file_digest
from pipeline.results.bundle import NOT_STATED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cyclonedx.model.license import License

    from pipeline.bundle.content import Content
    from pipeline.bundle.wheels import Wheels

FILE = "sbom.cdx.json"
#: What packages call a licence whose SPDX identifier they do not state.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "OSI Approved :: Apache Software License": "Apache-2.0",
}


def write_bill(content: Content, folder: Path) -> None:
    """Write sbom.cdx.json about the files that lie in `folder` and the packages that they need.

    Raises:
        InputError: as `write_requirements`.
    """
    bill: dict[str, Any] = json.loads(JsonV1Dot6(_bom(content, folder)).output_as_string())
    del bill["metadata"]["timestamp"], bill["serialNumber"]
    bill["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json_text(bill)).urn
    (folder / FILE).write_text(json_text(bill), encoding="utf-8")


def package_licence(name: str) -> str:
    """Return the licence that an installed package declares, as SPDX says it where that is known; else nothing."""
    declared = metadata(name).json
    lines = [str(declared.get(key) or "") for key in ("license_expression", "license")]
    lines += [text.removeprefix("License :: ") for text in declared.get("classifier", []) if text.startswith("License")]
    told = next((text for text in lines if text and "\n" not in text), "")
    return SPDX.get(told, told)


def _bom(content: Content, folder: Path) -> Bom:
    """Return the bill of materials as the library knows it."""
    bom = Bom()
    bom.metadata.tools.components.add(
        Component(type=ComponentType.APPLICATION, name="secateur", version=__version__, licenses=_licence("Apache-2.0"))
    )
    root = Component(type=ComponentType.APPLICATION, name=content.report.name, bom_ref="bundle")
    bom.metadata.component = root
    weights, licence = weights_licence(content), data_licence(content)
    data = Component(
        type=ComponentType.DATA,
        name=content.task.data.name,
        description="what the network was trained on; not part of the bundle, except for samples if the licence allows",
        bom_ref="data",
        licenses=_licence(licence),
    )
    files = sorted(path for path in (folder / "model").iterdir())
    models = [_model_file(path, path.relative_to(folder).as_posix(), weights) for path in files]
    pins = sorted({pin for runtime in content.files for pin in pinned(runtime)})
    wheels = wheels_of(pins, content.progress)
    packages = {pin.partition("==")[0]: _package(pin, wheels[pin]) for pin in pins}
    for component in (data, *models, *packages.values()):
        bom.components.add(component)
    bom.register_dependency(root, [*models, *packages.values()])
    for model in models:
        bom.register_dependency(model, [data])
    for name, package in packages.items():
        bom.register_dependency(package, [packages[other] for other in needed_by(name)])
    return bom


def _model_file(path: Path, name: str, licence: str) -> Component:
    """Describe a file of the network."""
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        bom_ref=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file_digest(path))],
        licenses=_licence(licence),
        properties=[Property(name="secateur:bytes", value=str(path.stat().st_size))],
    )


def _package(pin: str, wheels: Wheels) -> Component:
    """Describe a package, with its wheels for all places as references: their hashes are those of the requirements."""
    name, _, version = pin.partition("==")
    url = PackageURL(type="pypi", name=name, version=version)
    references = [
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(file),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for file, sha256 in sorted(set(wheels.values()))
    ]
    return Component(
        name=name,
        version=version,
        bom_ref=url.to_string(),
        purl=url,
        licenses=_licence(package_licence(name)),
        external_references=references,
    )


def _licence(text: str) -> Iterable[License]:
    """Return a licence as identifier, expression or name, whatever the text is; none where nobody said one."""
    if not text or text == NOT_STATED:
        return ()
    return (LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED),)

"""Names such as `timm:resnet50` are told from paths, and stand for a definition and its argument `name`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.paths import bundled_root
from pipeline.network.library import LIBRARIES, definition_of, libraries_of, split_reference, with_name


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "hf-hub:timm/resnet50", "x"])
def test_a_name_is_package_and_rest(library: str, name: str) -> None:
    """Everything after the first colon is the name: tags and further colons too."""
    assert split_reference(f"{library}:{name}") == (library, name)


@pytest.mark.parametrize(
    "given", ["model.py", "../timm/model.py", "timm", "timm:", "keras:x", "", None, 3, Path("a:b")]
)
def test_anything_else_is_none(given: object) -> None:
    """Paths, unknown packages and values that are no text are no names."""
    assert split_reference(given) is None


def test_name_becomes_an_argument() -> None:
    """The name joins the arguments; what is no named model stays as it is, for its own field to judge."""
    found = with_name({"definition": "timm:resnet50", "arguments": {"num_classes": 3}, "weights": "w.pt"})
    assert found == {
        "definition": "timm:resnet50",
        "arguments": {"num_classes": 3, "name": "resnet50"},
        "weights": "w.pt",
    }
    for other in ({"definition": "model.py"}, {}, "text", {"definition": "timm:x", "arguments": [1]}):
        assert with_name(other) is other


def test_two_names_are_refused() -> None:
    """A name beside an argument of that name says two things."""
    with pytest.raises(ValueError, match="found timm:a and an argument name, allowed: one of them"):
        with_name({"definition": "timm:a", "arguments": {"name": "b"}})


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_package_has_its_definition(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there, and is known for the package's again; a package that is missing is named with its remedy."""
    monkeypatch.setattr("pipeline.network.library.find_spec", lambda _: object())
    definition = definition_of(library)
    assert definition.is_file()
    assert libraries_of(definition) == (library,)
    assert libraries_of(bundled_root() / "models" / "resnet50" / "model.py") == ()
    monkeypatch.setattr("pipeline.network.library.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"{library} is not installed: pip install {library}"):
        definition_of(library)

"""The pages' templates: everything that is put into them is escaped, and a name that is missing is an error."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.core.printable import printable_text

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def load_template(name: str) -> Template:
    """Load a template of this package once."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _harmless(value: object) -> object:
    """Return what is put into a page without characters that turn text around or that HTML cannot hold."""
    if isinstance(value, Markup):
        return Markup(printable_text(value))  # noqa: S704 - it was markup before, and escapes have no markup in them
    return printable_text(value) if isinstance(value, str) else value

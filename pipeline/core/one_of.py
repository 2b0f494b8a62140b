"""Texts that have to be names of a table, with the messages and the JSON Schema of a Literal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticKnownError, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


@dataclass(frozen=True)
class OneOf:
    """The annotation of such a text; the table is asked each time, so that it may grow."""

    names: Callable[[], Collection[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:  # noqa: ANN401
        """Check the text against the table."""
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """List the names."""
        return {"enum": list(self.names()), "type": "string"}

    def _checked(self, given: object) -> str:
        names = list(self.names())
        if isinstance(given, str) and given in names:
            return given
        quoted = [f"'{name}'" for name in names]
        expected = " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
        raise PydanticKnownError("literal_error", {"expected": expected})


def one_of(names: Callable[[], Collection[str]]) -> OneOf:
    """Return the annotation for one of the names that the table has at the time."""
    return OneOf(names)

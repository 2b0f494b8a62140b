"""How a device is written, and the options that each kind takes. Whatever passes here is safe to hand to a program.

Users, hosts, serial numbers and processors are checked letter by letter: none can begin with a hyphen, so that none is
taken for an option, and none holds what a shell would act upon. Options are free text where they are paths; those
reach a program as one argument, or quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from pipeline.core.artifact import FrozenModel
from pipeline.core.errors import InputError
from pipeline.core.runtimes import BOARDS, DEFAULT_RUNTIME, EMULATED, RUNTIMES, shipping_runtimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXAMPLE = "qemu://cortex-a72"
_OPTIONAL = BOARDS.replace("user@", "[user@]").replace(":port", "[:port]")
WRITTEN = f"local, {_OPTIONAL}, {EMULATED} such as {EXAMPLE}"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_SSH = re.compile(
    rf"(?:(?P<user>{_WORD})@)?"
    rf"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9][A-Za-z0-9_.-]*)?)\]|(?P<host>{_WORD}))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
CPU = re.compile(r"[a-z0-9][a-z0-9._-]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PORTS = range(1, 65536)
#: Characters that end a line or a quoted word of ssh's options; none belongs in a path.
UNFIT = re.compile(r'[\x00-\x1f\x7f"\\]')


@dataclass(frozen=True)
class Address:
    """A device's text in parts: `what` is the host, the serial number or the processor."""

    kind: str
    what: str = ""
    user: str | None = None
    port: int | None = None


def parse(text: str) -> Address:
    """Take a device's text apart.

    Raises:
        InputError: it is none of the four kinds, or a part of it holds what such a part cannot.
    """
    kind, _, rest = text.partition("://")
    if text == "local":
        return Address("local")
    if kind == "ssh" and (found := _SSH.fullmatch(rest)):
        port = int(found["port"]) if found["port"] else None
        if port is None or port in PORTS:
            return Address("ssh", found["ipv6"] or found["host"], found["user"], port)
    if kind == "adb" and SERIAL.fullmatch(rest):
        return Address("adb", rest)
    if kind == "qemu" and CPU.fullmatch(rest):
        return Address("qemu", rest)
    raise InputError(f'found the device "{text}", allowed: {WRITTEN}, or a registered name')


def checked(text: str) -> str:
    """Return a device's text; raises InputError as `parse` does."""
    parse(text)
    return text


def _fit(text: str) -> str:
    """Return a path or a program as written; raises ValueError where it could be taken for something else."""
    if not text or text.startswith("-") or UNFIT.search(text):
        raise ValueError(f"found {text!r}, allowed: text without control characters, quotes and leading hyphens")
    return text


def _file(path: Path) -> Path:
    _fit(str(path))
    return path.expanduser().absolute()


Text = Annotated[str, AfterValidator(_fit)]
File = Annotated[Path, AfterValidator(_file)]


class DeviceRecord(FrozenModel):
    """A device with its options, as the registry keeps it. An option that its kind does not take is an error."""

    url: str = Field(description=WRITTEN)
    python: Text | None = Field(default=None, description="interpreter on the device; default: python3")
    folder: Text | None = Field(default=None, description="folder for files on the device; default: one of its own")
    identity: File | None = Field(default=None, description="ssh: the private key; default: those that ssh tries")
    known_hosts: File | None = Field(default=None, description="ssh: file of known host keys; default: ssh's own")
    config: File | None = Field(default=None, description="ssh: the configuration file; default: the user's own")
    server_port: int | None = Field(
        default=None, ge=1, le=PORTS[-1], description="adb: port of the adb server; default: 5037"
    )
    root: File | None = Field(
        default=None, description="qemu: folder with an arm64 system's files; default: one that is built"
    )
    libraries: tuple[str, ...] | None = Field(default=None, description="qemu: runtimes in the root that is built")

    OPTIONS: ClassVar[dict[str, frozenset[str]]] = {
        "local": frozenset({"python"}),
        "ssh": frozenset({"python", "folder", "identity", "known_hosts", "config"}),
        "adb": frozenset({"python", "folder", "server_port"}),
        "qemu": frozenset({"root", "libraries"}),
    }

    @property
    def address(self) -> Address:
        """The device's text in parts."""
        return parse(self.url)

    def with_runtimes(self, runtimes: Iterable[str]) -> DeviceRecord:
        """Return the device; an emulated one whose root is to be built gets these runtimes beside onnxruntime."""
        if self.address.kind != "qemu" or self.root or self.libraries:
            return self
        return self.model_copy(update={"libraries": ("numpy", *sorted({DEFAULT_RUNTIME, *runtimes}))})

    @field_validator("url")
    @classmethod
    def _url(cls, text: str) -> str:
        try:
            parse(text)
        except InputError as error:
            raise ValueError(str(error)) from error
        return text

    @field_validator("libraries")
    @classmethod
    def _libraries(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        runtimes = [RUNTIMES[name].package for name in shipping_runtimes()]
        if names is not None and not {"numpy"} < set(names) <= {"numpy", *runtimes}:
            allowed = f"numpy with one or more of {', '.join(runtimes)}"
            raise ValueError(f"found {', '.join(names) or 'none'}, allowed: {allowed}")
        return names

    @model_validator(mode="after")
    def _options(self) -> Self:
        """Refuse options of another kind."""
        kind = self.address.kind
        given = {name for name in self.model_fields_set - {"url"} if getattr(self, name) is not None}
        if strange := sorted(given - self.OPTIONS[kind]):
            allowed = ", ".join(sorted(self.OPTIONS[kind]))
            raise ValueError(f"found {', '.join(strange)} for a device of kind {kind}, allowed there: {allowed}")
        return self


def make_record(content: Mapping[str, Any]) -> DeviceRecord:
    """Check a device's text (`url`) and its options.

    Raises:
        InputError: the text or an option is not usable, or is none of this kind; each with what is allowed.
    """
    try:
        return DeviceRecord.model_validate(content)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'device'}: {p['msg']}" for p in error.errors())
        raise InputError(told.replace("Value error, ", "")) from error

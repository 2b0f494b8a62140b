"""What a device's text may hold: nothing in it can become an option of a program or a command of a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.measure.devices import open_device
from pipeline.measure.devices.adb import AdbDevice
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.measure.devices.record import Address, DeviceRecord, make_record, parse
from pipeline.measure.devices.ssh import SshDevice

FIT = {
    "local": Address("local"),
    "ssh://pi": Address("ssh", "pi"),
    "ssh://pi@board.example:2222": Address("ssh", "board.example", "pi", 2222),
    "ssh://a.b-c_d@10.0.0.7": Address("ssh", "10.0.0.7", "a.b-c_d"),
    "ssh://[::1]:22": Address("ssh", "::1", None, 22),
    "ssh://root@[fe80::1%eth0]": Address("ssh", "fe80::1%eth0", "root"),
    "adb://emulator-5554": Address("adb", "emulator-5554"),
    "adb://192.168.1.5:5555": Address("adb", "192.168.1.5:5555"),
    "adb://adb-0A1B2C._adb-tls-connect._tcp.": Address("adb", "adb-0A1B2C._adb-tls-connect._tcp."),
    "qemu://cortex-a72": Address("qemu", "cortex-a72"),
    "qemu://neoverse-n1": Address("qemu", "neoverse-n1"),
}
UNFIT = (
    "",
    "local://",
    "http://host",
    "ssh:host",
    "ssh://",
    "ssh://@host",
    "ssh://-oProxyCommand=id",
    "ssh://-l@host",
    "ssh://user@-oProxyCommand=id",
    "ssh://$(touch x)",
    "ssh://host;rm -rf .",
    "ssh://host`id`",
    "ssh://host name",
    "ssh://host\n",
    "ssh://us er@host",
    "ssh://a@b@host",
    "ssh://host:0",
    "ssh://host:65536",
    "ssh://host:22x",
    "ssh://host:",
    "ssh://host/path",
    "ssh://[::1",
    "ssh://[-oX]:22",
    "ssh://[::1%-x]",
    "adb://",
    "adb://-s",
    "adb://a b",
    "adb://$(id)",
    "adb://x;id",
    "qemu://",
    "qemu://-cpu",
    "qemu://max,sve=off",
    "qemu://../x",
    "qemu://cortex-a72 -plugin x",
    "a/name",
    "../name",
    "-name",
)


@pytest.mark.parametrize("text", FIT)
def test_fit_texts_are_taken_apart(text: str) -> None:
    """User, host, port, serial number and processor come out as they were written."""
    assert parse(text) == FIT[text]
    assert DeviceRecord(url=text).address == FIT[text]


@pytest.mark.parametrize("text", UNFIT)
def test_unfit_texts_are_refused(text: str) -> None:
    """The message says what was found and what is allowed; no device comes of it."""
    with pytest.raises(InputError, match=r"found the device .*(\n.*)?allowed: local, ssh://"):
        open_device(text)
    with pytest.raises(ValidationError, match="found the device"):
        DeviceRecord(url=text)


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("ssh://pi", {"python": "-c"}, "leading hyphens"),
        ("ssh://pi", {"folder": "-rf"}, "leading hyphens"),
        ("ssh://pi", {"folder": "a\nb"}, "control characters"),
        ("ssh://pi", {"python": ""}, "control characters"),
        ("ssh://pi", {"identity": 'a" -o "b'}, "quotes"),
        ("ssh://pi", {"known_hosts": "-x"}, "leading hyphens"),
        (
            "ssh://pi",
            {"server_port": 5037},
            "found server_port for a device of kind ssh, allowed there: config",
        ),
        ("ssh://pi", {"password": "x"}, "Extra inputs"),
        ("adb://x", {"identity": "key"}, "found identity for a device of kind adb"),
        ("adb://x", {"server_port": 0}, "greater than or equal to 1"),
        ("qemu://max", {"python": "python3"}, "found python for a device of kind qemu"),
        ("qemu://max", {"libraries": ["torch"]}, "found torch, allowed: numpy with"),
        ("local", {"folder": "x"}, "found folder for a device of kind local, allowed there: python"),
    ],
)
def test_unfit_options_are_refused(url: str, options: dict[str, object], expected: str) -> None:
    """An option that could be taken for something else, or that the kind does not have, is an error."""
    with pytest.raises(InputError, match=expected):
        make_record({"url": url, **options})


def test_ssh_gets_every_part_as_a_word_of_its_own() -> None:
    """The options come before `--`, the host after it, and the command for the device last."""
    record = DeviceRecord(url="ssh://pi@[::1]:2222", identity=Path("/k e%y"), config=Path("/c"), known_hosts=Path("/h"))
    command = SshDevice(record).command("exec true")
    options, (host, remote) = command[: command.index("--")], command[command.index("--") + 1 :]
    assert (host, remote) == ("::1", "exec true")
    assert options[:4] == ["ssh", "-T", "-F", "/c"]
    assert {'IdentityFile="/k e%%y"', 'UserKnownHostsFile="/h"', "StrictHostKeyChecking=yes"} <= set(options)
    assert {"BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"} <= set(options)
    assert options[-4:] == ["-p", "2222", "-l", "pi"]


def test_each_kind_has_its_class(tmp_path: Path) -> None:
    """A text or a record gives a device of its kind with its options; nothing is connected."""
    assert isinstance(open_device("ssh://pi"), SshDevice)
    assert isinstance(open_device("adb://emulator-5554"), AdbDevice)
    assert open_device("local") == LocalDevice()
    assert open_device(DeviceRecord(url="local", python="/usr/bin/python3")) == LocalDevice("/usr/bin/python3")
    device = open_device(DeviceRecord(url="qemu://cortex-a72", root=tmp_path), counts=tmp_path / "counts")
    assert device == QemuDevice("cortex-a72", tmp_path, counts=tmp_path / "counts")
    assert [open_device(text).url for text in ("ssh://a@b:1", "qemu://max")] == ["ssh://a@b:1", "qemu://max"]


def test_only_an_emulated_device_counts(tmp_path: Path) -> None:
    """Counts of instructions are refused elsewhere, with what to use."""
    with pytest.raises(InputError, match="does not count instructions; allowed: an emulated one such as qemu://"):
        open_device("ssh://pi", counts=tmp_path / "counts")


def test_an_emulated_device_gets_the_runtimes_that_are_asked_for() -> None:
    """Its root is built with them, unless a root or its libraries were chosen; other devices have what they have."""
    plain = DeviceRecord(url="qemu://cortex-a72")
    assert plain.with_runtimes(["openvino"]).libraries == ("numpy", "onnxruntime", "openvino")
    assert plain.with_runtimes(["onnxruntime"]).libraries == ("numpy", "onnxruntime")
    for chosen in (
        DeviceRecord(url="qemu://cortex-a72", libraries=("numpy", "openvino")),
        DeviceRecord(url="qemu://cortex-a72", root=Path("/root64")),
        DeviceRecord(url="ssh://pi"),
    ):
        assert chosen.with_runtimes(["openvino"]) == chosen

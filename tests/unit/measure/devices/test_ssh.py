"""The system's ssh against a real sshd here: files, the worker, and every refusal with what to do about it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError, InputError
from pipeline.measure.connection import Connection, connect
from pipeline.measure.devices.record import DeviceRecord
from pipeline.measure.devices.ssh import SshDevice
from tests.optional import found, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sshd import Sshd

HERE = Path(__file__).parent
PYTHON = sys.executable
#: What must reach a device as a name and never as a command.
HOSTILE = ("$(touch {0})", "`touch {0}`", "; touch {0} ;", "' ; touch {0} ; '", "a & touch {0} #", "${{IFS}}|touch {0}")


def write(folder: Path, **sizes: int) -> dict[str, Path]:
    """Write files of these sizes and return them by the names that they get on a device."""
    files = {}
    for name, size in sizes.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(os.urandom(size))
        files[f"digest-{name}/{path.name}"] = path
    return files


def everything(folder: Path) -> set[str]:
    """Return all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_worker_answers(sshd: Sshd) -> None:
    """It is sent, started and says hello; a second start sends nothing."""
    device = SshDevice(sshd.record(python=PYTHON))
    connection, told = connect(device)
    connection.close()
    (worker,) = (sshd.files / "worker").iterdir()
    before = worker.stat()
    again, _ = connect(device)
    again.close()
    assert told["protocol"] == 1
    assert told["executable"] == PYTHON
    assert (worker.stat().st_mtime_ns, worker.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_files_arrive_whole_and_private(sshd: Sshd, tmp_path: Path) -> None:
    """Contents, names and modes are as they should be, and no temporary name is left."""
    files = write(tmp_path, first=100_000, second=0, third=7)
    there = SshDevice(sshd.record(python=PYTHON)).push(files)
    assert everything(sshd.files) == set(files)
    for name, path in files.items():
        assert there[name] == f"{sshd.files}/{name}"
        assert Path(there[name]).read_bytes() == path.read_bytes()
        assert Path(there[name]).stat().st_mode & 0o777 == 0o600
    assert (sshd.files / "digest-first").stat().st_mode & 0o777 == 0o700


def test_only_what_is_missing_is_sent(sshd: Sshd, tmp_path: Path) -> None:
    """A file of the same size stays as it is; one of another size is replaced."""
    files = write(tmp_path, kept=50, changed=60)
    device = SshDevice(sshd.record(python=PYTHON))
    there = device.push(files)
    kept = Path(there["digest-kept/kept.onnx"])
    before = kept.stat().st_ino
    files["digest-changed/changed.onnx"].write_bytes(b"shorter")
    device.push(files)
    assert kept.stat().st_ino == before
    assert Path(there["digest-changed/changed.onnx"]).read_bytes() == b"shorter"


def test_a_folder_at_home(sshd: Sshd, tmp_path: Path) -> None:
    """`~` is the home on the device, not here; unless given, the folder is in its cache."""
    home = tmp_path / "the device's home"
    home.mkdir()
    sshd.login(f'#!/bin/sh\nHOME="{home}"\nexport HOME\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    (name, file), *_ = write(tmp_path, first=10).items()
    for folder, expected in ((None, ".cache/secateur-worker"), ("~/a b/c", "a b/c")):
        there = SshDevice(sshd.record(python=PYTHON, folder=folder)).push({name: file})
        assert there[name] == f"{home}/{expected}/{name}"
        assert Path(there[name]).is_file()
    (home / "python").symlink_to(PYTHON)
    connection, told = connect(SshDevice(sshd.record(python="~/python")))
    connection.close()
    assert told["executable"] == f"{home}/python"


def test_an_unknown_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    """Nothing is sent, and the message has the commands to look at the key and to accept it."""
    empty = tmp_path / "empty"
    empty.touch()
    device = SshDevice(sshd.record(known_hosts=empty))
    with pytest.raises(DeviceError, match=f"not known yet.*ssh-keyscan -p {sshd.port} 127.0.0.1 .*>> {empty}"):
        device.start()
    assert empty.read_bytes() == b""


def test_a_changed_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    """Another key than the known one is told as such, with the command that forgets the old one."""
    key = (sshd.folder / "user_key.pub").read_text().split()[1]
    wrong = tmp_path / "wrong"
    wrong.write_text(f"[127.0.0.1]:{sshd.port} ssh-ed25519 {key}\n")
    expected = rf"host key is not the one.*ssh-keygen -f {wrong} -R '\[127.0.0.1\]:{sshd.port}'(.|\n)*SHA256:"
    with pytest.raises(DeviceError, match=expected):
        SshDevice(sshd.record(known_hosts=wrong)).push({})


def test_a_wrong_user_key_is_refused(sshd: Sshd) -> None:
    """No password is asked for; the message says how to bring the key there."""
    device = SshDevice(sshd.record(identity=sshd.folder / "host_key"))
    with pytest.raises(DeviceError, match=f"does not accept the key.*ssh-copy-id -i .*host_key -p {sshd.port}"):
        device.start()


def test_nothing_listens(sshd: Sshd) -> None:
    """A port that nothing listens on is told at once."""
    sshd.close()
    with pytest.raises(DeviceError, match="nothing listens there"):
        SshDevice(sshd.record()).start()


def test_ssh_is_missing(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssh here the message names the package."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DeviceError, match="install openssh-client"):
        SshDevice(sshd.record()).start()


def test_python_is_missing(sshd: Sshd) -> None:
    """Without Python there nothing is sent, and the message says which was looked for."""
    with pytest.raises(DeviceError, match="no python9 there: install Python 3"):
        SshDevice(sshd.record(python="python9")).start()
    assert everything(sshd.files) == set()


def test_a_folder_that_cannot_be_made(sshd: Sshd) -> None:
    """A folder below a file is told as such."""
    (sshd.files / "file").touch()
    with pytest.raises(DeviceError, match=r"folder .*file/below cannot be created"):
        SshDevice(sshd.record(folder=f"{sshd.files}/file/below", python=PYTHON)).push({})


def test_a_full_disk(sshd: Sshd, full_disk: Path, tmp_path: Path) -> None:
    """The message says that the disk is full; nothing of the file is left, and a smaller one fits afterwards."""
    device = SshDevice(sshd.record(folder=str(full_disk / "files"), python=PYTHON))
    with pytest.raises(DeviceError, match="its disk is full: make room"):
        device.push(write(tmp_path, small=10_000, large=2_000_000))
    assert everything(full_disk) == set()
    small = write(tmp_path, small=300_000)
    device.push(small)
    assert everything(full_disk / "files") == set(small)


def test_the_shell_prints_a_greeting(sshd: Sshd, tmp_path: Path) -> None:
    """Files still arrive; where the worker's answer should be, what was found instead is told."""
    sshd.login('#!/bin/sh\necho "Welcome to the board"\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    device = SshDevice(sshd.record(python=PYTHON))
    files = write(tmp_path, first=10)
    device.push(files)
    assert set(files) <= everything(sshd.files)
    with pytest.raises(DeviceError, match=r"Welcome to the board.*login shell that prints"):
        connect(device)


def test_a_shell_that_is_none(sshd: Sshd) -> None:
    """A device that answers anything with its own text is told as such."""
    sshd.login("#!/bin/sh\necho restricted device\n")
    with pytest.raises(DeviceError, match=r"found 'restricted device' where a list of files was expected"):
        SshDevice(sshd.record()).push({})


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish", "tcsh"])
def test_any_login_shell(sshd: Sshd, tmp_path: Path, shell: str) -> None:
    """The lines that are run mean the same in any of the usual shells."""
    require(shell)
    sshd.login(f'#!/bin/sh\nexec {found(shell)} -c "$SSH_ORIGINAL_COMMAND"\n')
    files = write(tmp_path, first=1000)
    device = SshDevice(sshd.record(python=PYTHON, folder=f"{sshd.files}/it's a folder"))
    device.push(files)
    connection, told = connect(device)
    connection.close()
    assert set(files) <= everything(sshd.files / "it's a folder")
    assert told["executable"] == PYTHON


def test_a_device_with_busybox(sshd: Sshd, tmp_path: Path) -> None:
    """Small systems have the programs of busybox alone; these are enough."""
    require("busybox")
    programs = sshd.folder / "programs"
    programs.mkdir()
    for name in "sh tar wc mkdir mv rm chmod find".split():
        (programs / name).symlink_to(found("busybox") or "")
    sshd.login(f'#!/bin/sh\nPATH={programs}\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    files = write(tmp_path, first=1000, second=20_000)
    device = SshDevice(sshd.record(python=PYTHON))
    device.push(files)
    connection, told = connect(device)
    connection.close()
    assert set(files) <= everything(sshd.files)
    assert told["protocol"] == 1


def test_unplugged_in_the_middle(sshd: Sshd) -> None:
    """A connection that is cut between two requests is told, and the device works again afterwards."""
    device = SshDevice(sshd.record(python=PYTHON))
    connection, _ = connect(device)
    with connection:
        sshd.unplug()
        with pytest.raises(DeviceError, match="the worker ended during hello"):
            connection.request("hello")
    again, told = connect(device)
    again.close()
    assert told["protocol"] == 1


def test_unplugged_while_files_are_sent(sshd: Sshd, tmp_path: Path) -> None:
    """A cut line leaves no file under its final name, and no temporary one either; the next try sends it."""
    files = write(tmp_path, first=3_000_000)
    config = tmp_path / "slow"
    config.write_text(f"Host *\n  ProxyCommand {PYTHON} {HERE}/relay.py %h %p 0 300000\n")
    slow = SshDevice(sshd.record(python=PYTHON, config=config))
    cut = threading.Thread(target=lambda: (_await(sshd.files.glob, ".partial-*/*/*"), sshd.unplug()))
    cut.start()
    with pytest.raises(DeviceError, match="was lost"):
        slow.push(files)
    cut.join()
    assert not any((sshd.files / name).exists() for name in files)
    SshDevice(sshd.record(python=PYTHON)).push(files)
    assert all((sshd.files / name).read_bytes() == path.read_bytes() for name, path in files.items())


def _await(glob: Callable[[str], Iterable[Path]], pattern: str) -> None:
    """Wait until there is a file; folders may go while they are looked at."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if list(glob(pattern)):
                return
        time.sleep(0.02)


def test_a_slow_line(sshd: Sshd, tmp_path: Path) -> None:
    """With 50 ms each way and 200 kB/s all works; the user's own ssh settings say how the device is reached."""
    config = tmp_path / "slow"
    config.write_text(f"Host board\n  HostName 127.0.0.1\n  ProxyCommand {PYTHON} {HERE}/relay.py %h %p 0.05 200000\n")
    device = SshDevice(sshd.record(python=PYTHON, config=config, url=f"ssh://board:{sshd.port}"))
    files = write(tmp_path, first=50_000)
    there = device.push(files)
    connection, told = connect(device)
    connection.close()
    assert Path(there["digest-first/first.onnx"]).stat().st_size == 50_000
    assert told["protocol"] == 1


def test_the_worker_ends_with_the_connection(sshd: Sshd) -> None:
    """Nothing goes on running on the device."""
    connection, _ = connect(SshDevice(sshd.record(python=PYTHON)))
    assert len(sshd.children()) > 0
    connection.close()
    end = time.monotonic() + 10
    while sshd.children() and time.monotonic() < end:
        time.sleep(0.05)
    assert sshd.children() == []


def test_no_option_reaches_a_shell(sshd: Sshd, tmp_path: Path) -> None:
    """A folder of such a name is made, an interpreter of such a name is missing; neither is run."""
    marker = tmp_path / "marker"
    for number, text in enumerate(HOSTILE):
        folder = sshd.files / text.format(marker).replace("/", "_")
        SshDevice(sshd.record(folder=str(folder), python=PYTHON)).push(write(tmp_path, **{f"file{number}": 10}))
        assert everything(folder) == {f"digest-file{number}/file{number}.onnx"}
        with pytest.raises(DeviceError, match=r"no .* there"):
            SshDevice(sshd.record(python=text.format(marker))).push({})
    assert not marker.exists()


@pytest.mark.parametrize("name", [*(text.format("x") for text in HOSTILE), "-rf", ".hidden", "..", "a b", "ü.onnx", ""])
def test_no_file_name_reaches_a_shell(name: str) -> None:
    """A file whose name is not plain is refused before anything is connected."""
    with pytest.raises(InputError, match="rename the file"):
        SshDevice(DeviceRecord(url="ssh://nowhere.invalid")).push({f"digest/{name}": Path(__file__)})


def test_a_path_with_signs_that_ssh_expands(sshd: Sshd, tmp_path: Path) -> None:
    """Key files may have blanks and percent signs in their names."""
    folder = tmp_path / "100 %d"
    folder.mkdir()
    for name in ("user_key", "known_hosts"):
        (folder / name).write_bytes((sshd.folder / name).read_bytes())
        (folder / name).chmod(0o600)
    device = SshDevice(sshd.record(python=PYTHON, identity=folder / "user_key", known_hosts=folder / "known_hosts"))
    with Connection(device) as connection:
        assert connection.request("hello")["protocol"] == 1

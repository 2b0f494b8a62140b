"""What a test may need and a machine may lack: looked for, told together with what brings it, installed.

`python -m tests.optional install` installs the Debian packages for `make test` where it may, `install images` those for
`make image-test`; `hide COMMAND` runs a command where none of the former is found. None needs more than Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The Debian packages that bring each program of `make test` and `make arm-test`.
PROGRAMS = {
    "adb": "adb",
    "busybox": "busybox",
    "fish": "fish",
    "gcc": "gcc libc6-dev",
    "minisign": "minisign",
    "qemu-aarch64": "qemu-user",
    "qemu-x86_64": "qemu-user",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "tcsh": "tcsh",
    "zsh": "zsh",
}
#: The same for folders of data.
DATA = {Path("/usr/share/datasets/fashion-mnist"): "dataset-fashion-mnist"}
#: What `make image-test` needs where there is no docker.
IMAGES = "podman runc qemu-user-static"
#: Python packages; `make setup` installs the first three.
LIBRARIES = ("neural_compressor", "pycocotools", "sklearn", "timm", "torchvision", "transformers")
#: What is installed by another name than it is imported.
INSTALLED_AS = {"sklearn": "scikit-learn"}
#: A skipped test's reason begins so, with a word from the tables above in between.
REASON = re.compile(r"not installed: (\S+)")
#: Where programs of the administrator are, which a user's PATH may leave out.
SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def found(name: str) -> str | None:
    """Return the path of a program, a folder of data or a library; None where it is not installed."""
    for folder in DATA:
        if folder.name == name:
            return str(folder) if folder.is_dir() else None
    if name in LIBRARIES:
        return name if find_spec(name) else None
    return shutil.which(name, path=SEARCH)


def require(*names: str) -> None:
    """Skip a test where one of these is not installed; the end of the run tells what brings it."""
    import pytest  # noqa: PLC0415 - `install` runs before there is an environment

    for name in names:
        if found(name) is None:
            pytest.skip(f"not installed: {name}")


def debian_packages() -> list[str]:
    """Return the names of all Debian packages that tests make use of."""
    return sorted({name for packages in (*PROGRAMS.values(), *DATA.values()) for name in packages.split()})


def brings(reason: str) -> str:
    """Return the Debian packages that bring what a test was skipped for; empty where none does."""
    match = REASON.match(reason)
    tables = {**PROGRAMS, **{folder.name: packages for folder, packages in DATA.items()}}
    return tables.get(match[1], "") if match else ""


def told(reasons: Iterable[str]) -> list[str]:
    """Return the lines that say what was not tried, given why each test was skipped, and what installs it."""
    counted = Counter(reasons)
    lines = [f"{count:5} {'test ' if count == 1 else 'tests'}  {reason}" for reason, count in sorted(counted.items())]
    debian = {name for reason in counted for name in brings(reason).split()}
    python = {INSTALLED_AS.get(name, name) for name in LIBRARIES if f"not installed: {name}" in counted}
    if debian:
        lines.append(f"make setup SYSTEM=1 installs {', '.join(sorted(debian))}")
    if python:
        lines.append(f".venv/bin/pip install {' '.join(sorted(python))}")
    return lines


def absent(packages: Iterable[str]) -> list[str]:
    """Return those of these Debian packages that dpkg does not know as installed; all where there is no dpkg."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *(wanted := sorted(packages))]
    told = subprocess.run(query, check=False, capture_output=True, text=True).stdout if shutil.which(query[0]) else ""
    return [name for name in wanted if f"installed {name}" not in told.splitlines()]


def install(packages: Iterable[str]) -> None:
    """Install Debian packages, each by itself: one that cannot be had does not keep the others away."""
    if not (wanted := absent(packages)):
        return
    if not (apt_get := shutil.which("apt-get")):
        print(f"no apt-get here: install by your system's means what Debian calls {' '.join(wanted)}")
        return
    if os.geteuid() != 0:
        print(f"not root: run  sudo apt-get update && sudo apt-get install {' '.join(wanted)}")
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NOWARNINGS": "yes"}
    if subprocess.run([apt_get, "--quiet=2", "update"], env=environment, check=False).returncode:
        print("apt-get update failed")
    for package in wanted:
        command = [apt_get, "--quiet=2", "install", "--yes", "--no-install-recommends", package]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        print(f"{package}: {'apt-get does not give it' if done.returncode else 'installed'}")


def plain_programs() -> dict[str, Path]:
    """Return the programs of a fresh Debian, git, make and Python, by name; without dpkg, all but optional ones."""
    names = defaultdict[str, list[Path]](list)
    for folder in filter(Path.is_dir, map(Path, dict.fromkeys(SEARCH.split(":")))):
        for file in folder.iterdir():
            names[file.name].append(file)
    kept = set(names) - set(PROGRAMS)
    if shutil.which("dpkg-query"):
        query = ["dpkg-query", "--show", "--showformat=${Priority} ${Package}\n"]
        listed = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
        fresh = [line.split()[1] for line in listed if line.startswith("required ")]
        query = ["dpkg-query", "--listfiles", *fresh, "apt", "git", "make", "ca-certificates"]
        files = subprocess.run(query, check=False, capture_output=True, text=True).stdout.splitlines()
        kept &= {Path(file).name for file in files if "/bin/" in file or "/sbin/" in file} | {"sh", "awk"}
    return {**{name: names[name][0] for name in kept}, "python3": Path(sys.executable).resolve()}


def hide(command: list[str]) -> int:
    """Run a command where nothing of the tables is found, and return its exit code.

    PATH holds the programs of a fresh system alone. As root on Linux, in a name space of its own for mounts, the
    others' files and the data are covered, too, so that nothing finds them by another way.
    """
    with tempfile.TemporaryDirectory(prefix="plain-") as folder:
        for name, file in plain_programs().items():
            (Path(folder) / name).symlink_to(file)
        environment = {**os.environ, "PATH": folder}
        unshare = shutil.which("unshare")
        if os.geteuid() != 0 or unshare is None:
            print("not root: programs in /usr/sbin and data stay visible")
            return subprocess.run(command, env=environment, check=False).returncode
        files = sorted({str(Path(path).resolve()) for name in PROGRAMS if (path := found(name))})
        folders = sorted({str(path.parent) for path in DATA if path.is_dir()})
        cover = [*(f"mount --bind /dev/null {file}" for file in files), *(f"mount -t tmpfs tmpfs {f}" for f in folders)]
        script = "\n".join(["set -e", *cover, 'exec "$@"'])
        begin = [unshare, "--mount", "sh", "-c", script, "sh"]
        subprocess.run([*begin, sys.executable, "-m", "tests.optional", "none"], env=environment, check=True)
        return subprocess.run([*begin, *command], env=environment, check=False).returncode


def main() -> int:
    """Do what the arguments say."""
    match sys.argv[1:]:
        case ["install", *which]:
            install(IMAGES.split() if which == ["images"] else debian_packages())
            return 0
        case ["hide", *command] if command:
            return hide(command)
        case ["none"]:
            here = [name for name in (*PROGRAMS, *(folder.name for folder in DATA)) if found(name)]
            print(f"of {len(PROGRAMS) + len(DATA)} optional programs and data sets found: {' '.join(here) or 'none'}")
            return len(here)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

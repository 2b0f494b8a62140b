"""Finds a program that builds images and runs them: docker, podman or buildah, in this order.

Where podman runs as root of a machine without systemd (a container, a small virtual machine), its defaults ask for what
is not there: limits above its own, units of systemd, a log in the journal. It is then given settings of its own, by a
file in the cache folder that `CONTAINERS_CONF` names.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.partial import write_whole
from pipeline.core.paths import cache_root

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Programs that build, with a question that is answered where they work. Buildah runs no images.
PROBES: Mapping[str, tuple[str, ...]] = {"docker": ("info",), "podman": ("info",), "buildah": ("info",)}
BUILD_ONLY = "buildah"
#: Arguments that a build is given when the environment has them.
BUILD_ARGUMENTS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "TORCH_INDEX")
SETTINGS = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
{runtime}"""
PROCESSES = 4096
COMMAND_S = 1800


class UnavailableError(Exception):
    """This machine cannot do it: the text says why."""


@dataclass(frozen=True)
class Engine:
    """A program that builds images, as it is called on this machine."""

    name: str
    environment: Mapping[str, str]
    build_options: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()

    def variables(self) -> dict[str, str]:
        """Return the environment that the program is to be run in."""
        return {**os.environ, **self.environment}

    def call(self, *arguments: str, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, whatever its exit code; output and errors are text."""
        return subprocess.run(
            [self.name, *arguments],
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def told(self, *arguments: str) -> str:
        """Return what the program prints; raises UnavailableError with its last words when it fails."""
        done = self.call(*arguments)
        if done.returncode:
            raise UnavailableError(f"{self.name} {arguments[0]}: {last_line(done.stderr or done.stdout)}")
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Return whether the image is here."""
        return self.call("inspect", "--type", "image", image).returncode == 0

    def size(self, image: str) -> int | None:
        """Return the bytes of an image, all its layers unpacked; None where the engine rounds them (buildah)."""
        if self.name == BUILD_ONLY:
            return None
        return int(self.told("image", "inspect", "--format", "{{.Size}}", image))


def find(*, runs: bool = False) -> Engine:
    """Return the first engine that answers; with `runs` only those that run images, too.

    Raises:
        UnavailableError: there is none; the text has what was found of each.
    """
    found = []
    for name, probe in PROBES.items():
        if runs and name == BUILD_ONLY:
            continue
        if not shutil.which(name):
            found.append(f"{name} is not installed")
            continue
        engine = _engine(name)
        done = engine.call(*probe)
        if done.returncode == 0:
            return engine
        found.append(f"{name} does not work: {last_line(done.stderr or done.stdout)}")
    raise UnavailableError("; ".join(found))


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no message"])[-1]


def _engine(name: str) -> Engine:
    given = [f"{argument}={os.environ[argument]}" for argument in BUILD_ARGUMENTS if os.environ.get(argument)]
    indexes = tuple(word for argument in given for word in ("--build-arg", argument))
    if name == "docker":
        return Engine(name, {}, indexes)
    # Other formats of images have no HEALTHCHECK.
    environment = {"BUILDAH_FORMAT": "docker"}
    if os.geteuid() != 0 or Path("/run/systemd/system").is_dir():
        return Engine(name, environment, indexes)
    if "CONTAINERS_CONF" not in os.environ:
        environment["CONTAINERS_CONF"] = str(_settings())
    if name == BUILD_ONLY:
        return Engine(name, {**environment, "BUILDAH_ISOLATION": "chroot"}, indexes)
    # Health checks are units of systemd; a network of its own is more than a build needs.
    return Engine(name, environment, ("--network", "host", *indexes), ("--no-healthcheck",))


def _settings() -> Path:
    """Write settings for a machine without systemd, with the limits that hold here, and return their file."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    # Podman lowers its own limit of processes before it starts one: what is given lies well below.
    processes = PROCESSES if processes == resource.RLIM_INFINITY else min(processes, PROCESSES)
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    runtime = 'runtime = "runc"\n' if shutil.which("runc") and not unified else ""
    file = cache_root() / "containers" / "containers.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, SETTINGS.format(files=files, processes=processes, runtime=runtime))
    return file

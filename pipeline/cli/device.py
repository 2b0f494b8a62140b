"""The commands about devices: doctor, device add, list, check, remove. Arguments to calls, results to text or JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.choices import AsJson, FileRuntime, Threads, parsed_option
from pipeline.cli.say import say, say_result, say_values
from pipeline.core.runtimes import BOARDS, DEFAULT_RUNTIME, EMULATED

if TYPE_CHECKING:
    from pipeline.measure.probe import DeviceStatus
    from pipeline.results.doctor import DoctorReport

UNREACHABLE = 5
Name = Annotated[str, typer.Argument(help="Name of the device.", show_default=False)]
device_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Devices by name: other machines on which files are measured.",
)


def doctor(
    device: Annotated[str, typer.Option(metavar="DEVICE", help=f"local, {BOARDS}, or a registered name.")] = "local",
    runtime: Annotated[FileRuntime, typer.Option(help="Runtime to measure with.")] = DEFAULT_RUNTIME,
    threads: Threads = 1,
    aa: Annotated[
        int, typer.Option(min=2, max=10_000, help="How often a file is compared with a copy of itself.")
    ] = 10,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Measuring time of one comparison: 2s.")] = "2s",
    as_json: AsJson = False,
) -> None:
    """Say how small a slowdown this device can see, and what disturbs it.

    A network of about a millisecond is compared with a copy of itself, again and again: any difference is noise.
    compare then uses the result: it refuses a margin that the device cannot see.

    Examples:

      secateur doctor

      secateur doctor --device ssh://pi@raspberrypi --threads 4 --aa 20
    """
    from pipeline.core.units import parse_duration
    from pipeline.latency.doctor import examine_device
    from pipeline.measure.devices import open_device
    from pipeline.report.progress import ConsoleProgress

    budget_s = parsed_option(parse_duration, budget, "--budget")
    with ConsoleProgress() as progress:
        found = examine_device(
            open_device(device, note=progress.note),
            runtime,
            threads=threads,
            repeats=aa,
            budget_s=budget_s,
            progress=progress,
        )
    if as_json:
        say_result(found)
    else:
        _show_doctor(found)


def _show_doctor(found: DoctorReport) -> None:
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.latency.doctor import ENOUGH
    from pipeline.latency.noise import noise_in
    from pipeline.report.console import Console
    from pipeline.report.latency.doctor_terminal import doctor_summary

    noise, usual = noise_in(found, found.clock), ComparisonRequest()
    margins = {budget_s: noise.smallest_margin(budget_s) for budget_s in sorted({found.budget_s, usual.budget_s})}
    kept = len(found.noise.ratios) >= ENOUGH
    Console().print(doctor_summary(found, margins, default_margin=usual.margin, kept=kept))


@device_app.command("add")
def device_add(
    name: Name,
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help=f"{BOARDS}, {EMULATED} or local.", show_default=False),
    ],
    python: Annotated[str | None, typer.Option(help="Interpreter on the device. Default: python3.")] = None,
    folder: Annotated[str | None, typer.Option(help="Folder on the device for files.")] = None,
    identity: Annotated[Path | None, typer.Option(metavar="FILE", help="ssh: the private key.")] = None,
    known_hosts: Annotated[Path | None, typer.Option(metavar="FILE", help="ssh: the file of known host keys.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="ssh: the configuration file.")] = None,
    server_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, metavar="PORT", help="adb: port of the adb server.")
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="qemu: the files of an arm64 system.")] = None,
    library: Annotated[
        list[str] | None, typer.Option(help="qemu: a package to install into the root. Repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a device under a name, with its options, without connecting to it.

    Examples:

      secateur device add pi ssh://pi@raspberrypi --python /home/pi/venv/bin/python

      secateur device add board adb://0123456789ABCDEF
    """
    from pipeline.measure.devices.record import make_record
    from pipeline.measure.devices.registry import add_device

    options = {
        "python": python,
        "folder": folder,
        "identity": identity,
        "known_hosts": known_hosts,
        "config": config,
        "server_port": server_port,
        "root": root,
        "libraries": tuple(library) if library else None,
    }
    record = make_record({"url": url, **{key: value for key, value in options.items() if value is not None}})
    file = add_device(name, record)
    told = {"name": name, "file": str(file), **record.model_dump(mode="json", exclude_none=True)}
    _tell(told, f"{name} is {record.url}; check whether it answers: secateur device check {name}", as_json=as_json)


@device_app.command("list")
def device_list(as_json: AsJson = False) -> None:
    """List the registered devices with their options."""
    from pipeline.measure.devices.registry import list_devices

    found = {name: each.model_dump(mode="json", exclude_none=True) for name, each in list_devices().items()}
    lines = [
        "  ".join(
            [
                name,
                *(
                    value if key == "url" else f"{key}={','.join(value) if isinstance(value, list) else value}"
                    for key, value in each.items()
                ),
            ]
        )
        for name, each in found.items()
    ]
    _tell(found, "\n".join(lines) or "no device is registered; add one: secateur device add NAME URL", as_json=as_json)


@device_app.command("check")
def device_check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a device, or its URL.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Connect to a device and say what is there and what is missing. Exit code 5 if it cannot be used.

    Example: secateur device check pi
    """
    from pipeline.measure.devices import open_device
    from pipeline.measure.probe import probe_device
    from pipeline.report.progress import ConsoleProgress

    with ConsoleProgress() as progress:
        found = probe_device(open_device(name, note=progress.note))
    _tell({"name": name, **asdict(found)}, _described(name, found), as_json=as_json)
    if not found.ready:
        raise typer.Exit(UNREACHABLE)


@device_app.command("remove")
def device_remove(name: Name, as_json: AsJson = False) -> None:
    """Forget a device; files on it stay."""
    from pipeline.measure.devices.registry import remove_device

    record = remove_device(name)
    _tell({"name": name, **record.model_dump(mode="json", exclude_none=True)}, f"{name} removed", as_json=as_json)


def _described(name: str, found: DeviceStatus) -> str:
    told = found.fingerprint
    packages = ", ".join(f"{package} {version}" for package, version in found.packages.items() if version)
    machine = f"{told['cpu_model'] or 'unknown processor'}, {told['architecture']}, {told['logical_cores']} cores"
    counts = "instructions only: it is emulated, so its times mean nothing" if found.emulated else "times"
    lines = [
        f"{name}: {found.url} answers in {found.round_trip_ms:.2g} ms",
        f"  machine   {machine}, {told['system']} {told['kernel']}",
        f"  isa       {' '.join(told['isa']) or 'unknown'}",
        f"  python    {found.executable} (Python {found.python})",
        f"  packages  {packages or 'none'}",
        f"  counts    {counts}",
    ]
    if found.install:
        need = "missing" if not found.ready else "optional"
        lines.append(f"  {need:9} {' and '.join(found.missing)}; run there: {found.install}")
    return "\n".join(lines)


def _tell(told: Any, text: str, *, as_json: bool) -> None:  # noqa: ANN401 - whatever JSON can hold
    if as_json:
        say_values(told)
    else:
        say(text)

"""The commands about edge bundles: bundle and verify. Arguments to calls, results to text or JSON."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the types of options
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli.choices import AsJson, FileRuntime  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say, say_values
from pipeline.core.runtimes import BOARDS, EMULATED, shipping_runtimes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.bundle.on_device.verify import Verification, VerifyOptions


def bundle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE.tar.gz", help="Where to write. Default: RUN/bundle and RUN/bundle.tar.gz."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, max=64, help="Samples with expected outputs.")] = None,
    sample_source: Annotated[
        Literal["auto", "validation", "synthetic"] | None,
        typer.Option(help="Validation samples, generated ones, or (auto) what the data's licence allows."),
    ] = None,
    data_licence: Annotated[str | None, typer.Option(metavar="SPDX", help="Licence of the data.")] = None,
    weights_licence: Annotated[str | None, typer.Option(metavar="SPDX", help="Licence of the weights.")] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(shipping_runtimes()), help="Ship only files for this runtime. Repeatable."),
    ] = None,
    storage: Annotated[
        Literal["plain", "packed"] | None,
        typer.Option(help="Model files in fewer bytes, which the bundle's code unpacks in memory (packed), or plain."),
    ] = None,
    sign: Annotated[Path | None, typer.Option(metavar="KEY", help="Secret minisign key to sign with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's edge bundle: exported files, code to run and check them, and where they came from.

    A device needs Python, numpy and one runtime to run it. Options that you leave out are those of the recipe's stage
    `bundle`.

    Examples:

      secateur bundle runs/demo

      secateur bundle runs/demo --out cells.tar.gz --sign minisign.key --data-licence CC-BY-4.0
    """
    from pipeline.bundle.of_run import write_bundle_of
    from pipeline.report import write_report
    from pipeline.report.progress import ConsoleProgress
    from pipeline.results.run_folder import read_run

    report, folder = read_run(run)
    given: dict[str, Any] = {
        "samples": samples,
        "sample_source": sample_source,
        "data_licence": data_licence,
        "weights_licence": weights_licence,
        "runtimes": tuple(runtime) if runtime else None,
        "storage": storage,
    }
    given = {name: value for name, value in given.items() if value is not None}
    with ConsoleProgress() as progress:
        made = write_bundle_of(report, folder, out, given, secret_key=sign, progress=progress)
    if out is None:
        write_report(read_run(folder)[0], folder)
    told = {"digest": made.digest, "places": [str(place) for place in made.places], "signed": sign is not None}
    text = "\n".join([*(f"Bundle: {place}" for place in made.places), f"Digest: {made.digest}"])
    if as_json:
        say_values(told)
    else:
        say(text)


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, or its .tar.gz.", show_default=False)
    ],
    runtime: Annotated[
        FileRuntime | None,
        typer.Option(help="Runtime for the samples. Default: the bundle's own."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads of the runtime.")] = 1,
    public_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Public minisign key, a file or its text: check the signature.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="The digest that `secateur bundle` printed.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help=f"Run the samples there: {BOARDS}, {EMULATED}, or a registered name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an edge bundle: files, checksums, signature, digest, and what its network computes on the samples.

    No code from the bundle is run. With --device the bundle is checked here, then sent there and run with the device's
    own Python; every output is compared with the expected one. Exit codes: 0 verified, 2 refused (the file is named),
    5 the runtime is missing or the device cannot be used, 6 wrong outputs.

    Examples:

      secateur verify runs/demo/bundle.tar.gz

      secateur verify cells.tar.gz --public-key minisign.pub --digest sha256:...

      secateur verify cells.tar.gz --device ssh://pi@raspberrypi --runtime openvino
    """
    from pipeline.bundle.on_device.verify import Rejected, VerifyOptions
    from pipeline.core.errors import DeviceError

    wanted = VerifyOptions(runtime=runtime, threads=threads, public_key=public_key, digest=digest)
    found, verification = _verification(bundle, wanted, device)
    code = 0
    try:
        verification()
    except (Rejected, DeviceError) as error:
        found.error, code = str(error), error.exit_code
    _show(found, as_json=as_json)
    raise typer.Exit(code)


def _verification(bundle: Path, wanted: VerifyOptions, device: str | None) -> tuple[Verification, Callable[[], None]]:
    """Return the record that a verification here or on a device fills, and the function that does it."""
    if device is None:
        from pipeline.bundle.check import check_bundle
        from pipeline.bundle.on_device.verify import Verification

        found = Verification()
        return found, lambda: check_bundle(bundle, wanted, found)
    from pipeline.bundle.remote import FoundThere, check_on
    from pipeline.report.progress import ConsoleProgress

    there = FoundThere()

    def on_device() -> None:
        with ConsoleProgress() as progress:
            check_on(device, bundle, wanted, there, progress)

    return there, on_device


def _show(found: Verification, *, as_json: bool) -> None:
    from pipeline.bundle.on_device.verify import as_json as as_json_text
    from pipeline.bundle.on_device.verify import verification_lines

    say(as_json_text(found) if as_json else verification_lines(found))
    if found.error:
        say(f"error: {found.error}", err=True)

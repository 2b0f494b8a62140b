"""The commands `secateur store`: check, prune, size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.choices import AsJson  # noqa: TC001 - typer reads annotations
from pipeline.cli.say import say_values
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.core.store import Store
    from pipeline.core.store_care import EntryCheck, PrunedEntries, StoreSize

DAMAGED = 1

store_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the store of finished stages ($SECATEUR_STORE, else ~/.cache/secateur/store).\n\n"
    "Everything in it can be made again: a run takes what is intact, and makes again what is missing or damaged, which "
    "it reports. All commands are safe while runs use the store.",
)


def seconds(option: str, text: str) -> float:
    """Return the seconds in a time such as `30d`. Raises InputError that names the option."""
    from pipeline.core.units import parse_age

    try:
        return parse_age(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error


@store_app.command()
def check(as_json: AsJson = False) -> None:
    """Read every stored file and say which entries are damaged: a file is missing, or any byte has changed.

    This changes nothing: the next run that needs a damaged entry makes it again. Entries made by earlier versions have
    no listing of their files; they get one when a run first uses them. Exit code 1 if something is damaged, else 0.

    Example: secateur store check
    """
    from pipeline.core.store_care import check_entries as check_store
    from pipeline.report.progress import ConsoleProgress

    with ConsoleProgress() as progress:
        found = check_store(_store(), lambda done, of: progress.update(done, of, "checking the store"))
    damaged = [each for each in found if each.state == "damaged"]
    if as_json:
        say_values([each.model_dump(mode="json") for each in found])
    else:
        _show_checked(found)
    raise typer.Exit(DAMAGED if damaged else 0)


@store_app.command()
def prune(
    older: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Remove what no run has used for that long: a number with d, h, min, s or ms, such as 30d or 12h.",
            show_default=False,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove stages that no run has used for long, and what killed runs left unfinished that long ago.

    What a running process uses or makes stays, however old. Files that are also in run folders stay there: their bytes
    become free when the run folder is removed too.

    Examples:

      secateur store prune --older 30d --dry-run

      secateur store prune --older 30d
    """
    from pipeline.core.store_care import prune_entries as prune_store

    removed = prune_store(_store(), seconds("--older", older), dry_run=dry_run)
    if as_json:
        say_values(removed.model_dump(mode="json"))
    else:
        _show_removed(removed, dry_run=dry_run)


@store_app.command()
def size(as_json: AsJson = False) -> None:
    """Say how many entries the store has, by the kind of stage, and how many bytes they take.

    Files in run folders are hard links to those in the store: their bytes stay in use while either exists.

    Example: secateur store size
    """
    from pipeline.core.store_care import count_entries as size_of

    found = size_of(_store())
    if as_json:
        say_values({**found.model_dump(mode="json"), "bytes": found.bytes})
    else:
        _show_size(found)


def _store() -> Store:
    from pipeline.core.store import Store, default_root

    root = default_root()
    if root.exists() and not root.is_dir():
        raise InputError(f"the store {root} is a file, expected a folder: set SECATEUR_STORE to another place")
    return Store(root)


def _show_checked(found: list[EntryCheck]) -> None:
    states = {
        state: [each for each in found if each.state == state] for state in ("damaged", "in the making", "unlisted")
    }
    table = _table("Kind", "Entry", "State")
    for each in (*states["damaged"], *states["in the making"]):
        table.add_row(each.kind, each.key[:12], f"{each.state}: {each.problem}")
    if table.row_count:
        _print(table)
    counted = [_entries(len(found))]
    counted += [f"{len(states['unlisted'])} from earlier versions without a listing"] if states["unlisted"] else []
    counted += [f"{len(states['damaged'])} damaged" if states["damaged"] else "none damaged"]
    _print(", ".join(counted) + ("; runs that need them will make them again" if states["damaged"] else ""))


def _show_removed(removed: PrunedEntries, *, dry_run: bool) -> None:
    from pipeline.report import numbers

    number = sum(removed.entries.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(removed.entries.items()))
    done = "would be removed" if dry_run else "removed"
    left = f" and {removed.unfinished} unfinished" if removed.unfinished else ""
    use = f"; {removed.in_use} as old in use" if removed.in_use else ""
    listed = f" ({kinds})" if kinds else ""
    _print(f"{_entries(number)}{listed}{left} {done}, {numbers.size(removed.bytes)} freed; {removed.kept} kept{use}")


def _show_size(found: StoreSize) -> None:
    from pipeline.report import numbers

    table = _table("Kind", "Entries", "Size")
    for kind in sorted(found.entries, key=lambda each: -found.bytes_by_kind.get(each, 0)):
        table.add_row(kind, str(found.entries[kind]), numbers.size(found.bytes_by_kind.get(kind, 0)))
    if found.unfinished_bytes:
        table.add_row("unfinished", "", numbers.size(found.unfinished_bytes))
    table.add_row("all", str(sum(found.entries.values())), numbers.size(found.bytes))
    _print(table)
    if found.shared_bytes:
        _print(
            f"{numbers.size(found.shared_bytes)} of it are also in run folders and become free when those are removed"
        )


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table as RichTable

    table = RichTable(box=SIMPLE)
    for name in columns:
        table.add_column(name, justify="right" if name in {"Entries", "Size"} else "left", overflow="fold")
    return table


def _print(content: object) -> None:
    from pipeline.report.console import Console

    Console().print(content)

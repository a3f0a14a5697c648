"""The command that lays several runs side by side: compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from search.console import say, shown_path
from search.errors import BadInput
from search.session import Out

__all__ = ["compare"]

RUNS = Path("runs")
MOST_RUNS = 12  # more are no picture, and have no letter each


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Two run directories or more, or names of some below --out."),
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="Judge by this metric.", show_default="the first run's objective"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the tables as CSV into a new directory.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that works offline.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what --csv and --html name.")] = False,
    out: Out = RUNS,
) -> None:
    """Compare several RUNs of one family.

    Best and confirmed scores, the best value after the same number of epochs spent, how the scores of
    configurations in common differ, and what differs between the runs: space, data, seed, versions. Says when
    runs do not compare. The first RUN is the one that the others are compared with. Works while a run is
    going on.

    \b
    Examples:
      loss-search compare beta_vae-20260131-120000 beta_vae-20260201-090000
      loss-search compare runs/tpe runs/random --html tpe_against_random.html
      loss-search compare runs/a runs/b runs/c --metric pixel_accuracy --csv tables
    """
    from search.comparability import require_one_family
    from search.compare import compare as compared
    from search.compare import metric_of
    from search.compare_lines import print_comparison
    from search.compare_reading import read_searched
    from search.run import Run
    from search.run_directory import RunDirectory

    directories = [RunDirectory.open(name, out) for name in names]
    _require_several(directories)
    _require_room(csv, html, force)
    spaces = [Run.stored_space(directory) for directory in directories]
    require_one_family(
        [(directory.name, space.family_name) for directory, space in zip(directories, spaces, strict=True)]
    )
    judged, sign = metric_of(spaces, metric)
    pairs = zip(directories, spaces, strict=True)
    facts = _plain(compared([read_searched(one, space, judged) for one, space in pairs], judged, sign))
    written = _write(facts, csv, html)  # before anything is printed: a pager may end that early
    if as_json:
        say(json.dumps(facts, indent=1, allow_nan=False))
        return
    print_comparison(facts)
    say()
    for path in written:
        say(shown_path(path))


def _require_several(directories: list[Any]) -> None:
    seen: dict[Path, str] = {}
    for directory in directories:
        if directory.path in seen:
            raise BadInput(f"{shown_path(directory.path)}: given twice; name each run once")
        seen[directory.path] = directory.name
    if not 2 <= len(directories) <= MOST_RUNS:
        found = f"{len(directories)} run{'s' if len(directories) != 1 else ''} given"
        raise BadInput(f"compare: {found}; it takes 2 to {MOST_RUNS}")


def _require_room(csv: Path | None, html: Path | None, force: bool) -> None:
    """Raise BadInput where something would be overwritten or cannot be written, before anything is."""
    if csv is not None and csv.exists():
        if not csv.is_dir():
            raise BadInput(f"--csv {csv}: is a file; name a directory")
        if any(csv.iterdir()) and not force:
            raise BadInput(f"--csv {csv}: is not empty; name a new directory, or add --force")
    if html is not None and html.exists():
        if not html.is_file():
            raise BadInput(f"--html {html}: is a directory; name a file in it, as in {html / 'compare.html'}")
        if not force:
            raise BadInput(f"--html {html}: exists; name another file, or add --force")
    for option, path in (("--csv", csv), ("--html", html)):
        if path is None:
            continue
        above = next(one for one in path.absolute().parents if one.exists())
        if not above.is_dir():
            raise BadInput(f"{option} {path}: {above} is no directory")


def _write(facts: dict[str, Any], csv: Path | None, html: Path | None) -> list[Path]:
    """The files that were asked for. Raises BadInput where they cannot be written."""
    from search.compare_lines import csv_files
    from search.compare_page import comparison_page
    from search.page import write_page

    paths = []
    option, place = "--csv", csv
    try:
        if csv is not None:
            csv.mkdir(parents=True, exist_ok=True)
            for name, text in csv_files(facts).items():
                paths.append(csv / name)
                paths[-1].write_text(text, encoding="utf-8")
        option, place = "--html", html
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            write_page(html, comparison_page(facts))
            paths.append(html)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise BadInput(f"{option} {place}: cannot be written ({error.strerror})") from error
    return paths


def _plain(value: Any) -> Any:
    """Null for every number that is not finite: JSON has none."""
    from search.page import plain

    return plain(value)

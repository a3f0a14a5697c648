"""The commands about data: check a file as its family reads it, convert public data sets to such files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.console import number, print_table, say, short, shown_path
from search.errors import BadInput, nearest
from search.session import overrides_of

if TYPE_CHECKING:
    from trainables.convert import Converted
    from trainables.data import Field
    from trainables.family import Data, Family

__all__ = ["data"]

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
GROUPS = ("group", "match_id", "task", "strip")  # fields that say which rows belong together, by precedence

data = typer.Typer(no_args_is_help=True, help="Check a data file, or convert a data set to one.")
convert = typer.Typer(no_args_is_help=True, help="Convert a data set to a file that a family reads.")
data.add_typer(convert, name="convert")

FamilyName = Annotated[str, typer.Argument(metavar="FAMILY", help="See `loss-search families`.")]
OutFile = Annotated[Path, typer.Argument(metavar="OUT", help="The npz file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT when it exists.")]


# ---- check and schema


@data.command()
def check(
    family: FamilyName,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="An npz file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="data.KEY=VALUE", help="Change a data setting; may be repeated."),
    ] = None,
    only_schema: Annotated[
        bool, typer.Option("--schema", help="Print what such a file holds; takes no FILE.")
    ] = False,
) -> None:
    """Check that FAMILY can read FILE, and show what it finds there.

    Prints the tensors of each split, the labels and how unevenly they are spread, and warnings. Exits with 0
    when FILE can be used, and with 2 and the reason when it cannot.

    \b
    Examples:
      loss-search data check multitask fouls.npz
      loss-search data check beta_vae grids.npz --set data.min_background=0.5
      loss-search data check tokens --schema
    """
    from search.configuration import known_family

    found = known_family(family)
    if only_schema:
        if file is not None or settings:
            raise BadInput("--schema: takes neither FILE nor --set; it prints what a file must hold")
        _print_schema(found)
        return
    if file is None:
        raise BadInput(f"FILE is missing; give an npz file, or --schema to see what {family} reads")
    if "file" not in found.sources:
        raise BadInput(f"{family}: reads no files; its sources are {', '.join(found.sources)}")
    loaded = found.load({"source": "file", "path": str(file), **_data_settings(found, settings)})
    say(f"{shown_path(file)}: can be read by {found.name}")
    say()
    _print_splits(found, file, loaded)
    for kind, counts in found.label_counts(loaded).items():
        say()
        _print_labels(kind, counts)
    say()
    static = {name: setting.default for name, setting in found.statics.items()}
    say(f"selection_accuracy of guessing: {number(found.chance(loaded.facts, static))}")
    for warning in [*_unnamed(found, file), *loaded.warnings]:
        say(f"warning: {warning}")


@data.command()
def schema(family: FamilyName) -> None:
    """Show which arrays an npz file for FAMILY holds.

    \b
    Example:
      loss-search data schema multitask
    """
    from search.configuration import known_family

    _print_schema(known_family(family))


def _data_settings(family: Family, settings: list[str] | None) -> dict[str, Any]:
    """Every data setting of the family, with what `--set` changes. Raises BadInput, BadSpace."""
    from search.value_lines import read_settings
    from search.yaml_lines import Complaints, Leaf, Place, Table, parse

    complaints = Complaints()
    entries: dict[str, Any] = {}
    for key, value in overrides_of(settings).items():
        section, _, name = key.partition(".")
        if section != "data" or name not in family.data_settings:
            known = [f"data.{setting}" for setting in family.data_settings]
            raise BadInput(f"--set {key}: must be one of {', '.join(known) or 'none'}.{nearest(key, known)}")
        place = Place(f"--set {key}")
        entries[name] = parse(value, str(place), complaints, only=place) or Leaf(place, None, "")
    table = Table(Place("--set"), entries)
    values = read_settings(table, family.data_settings, "data", complaints)
    complaints.settle()
    return values


def _print_schema(family: Family) -> None:
    if not family.file_fields:
        raise BadInput(f"{family.name}: reads no files; its sources are {', '.join(family.sources)}")
    say(f"{family.name}: arrays of an npz file, as numpy.savez_compressed writes it")
    say()
    rows = [
        (
            name,
            "/".join(field.kinds),
            f"[{', '.join(map(_axis, field.shape))}]",
            _range(field),
            "yes" if field.required else "no",
            field.help,
        )
        for name, field in family.file_fields.items()
    ]
    print_table(("array", "type", "shape", "allowed", "required", "what it holds"), rows)


def _axis(axis: Any) -> str:
    return f"{axis.start}..{axis[-1]}" if isinstance(axis, range) else str(axis)


def _range(field: Field) -> str:
    bounds = [] if field.low is None and field.high is None else [_bounds(field)]
    words = [", ".join(field.words)] if field.words else []
    if not bounds and "float" in field.kinds:
        bounds = ["finite"]
    return " or ".join([*words, *bounds])


def _bounds(field: Field) -> str:
    if field.high is None:
        return f"from {short(field.low)}"
    return f"up to {short(field.high)}" if field.low is None else f"{short(field.low)} to {short(field.high)}"


def _print_splits(family: Family, file: Path, loaded: Data) -> None:
    """Examples, groups and tensors of each split."""
    say("examples  " + ", ".join(f"{loaded.size(split):,} {split}" for split in loaded.splits))
    groups = _groups(family, file)
    if groups is not None:
        name, counts = groups
        listed = ", ".join(f"{count:,} {split}" for split, count in zip(loaded.splits, counts, strict=True))
        say(f"groups    {listed} (different values of '{name}' in the file)")
    say()
    names = next(iter(loaded.splits.values()))
    rows = [
        (
            name,
            str(names[name].dtype).removeprefix("torch."),
            *(_shape(part[name]) for part in loaded.splits.values()),
        )
        for name in names
    ]
    print_table(("tensor", "type", *loaded.splits), rows)


def _shape(tensor: Any) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _groups(family: Family, file: Path) -> tuple[str, list[int]] | None:
    """The field that groups the file's rows, and its different values in train, val and test."""
    from trainables.data import SPLITS, checked_arrays, field_names, split_column

    there = field_names(file)
    name = next((name for name in GROUPS if name in family.file_fields and name in there), None)
    if name is None:
        return None
    wanted = {key: family.file_fields[key] for key in (name, "split") if key in family.file_fields}
    arrays = checked_arrays(file, wanted=wanted)
    arrays["group"] = arrays.pop(name)
    split, _ = split_column(file, arrays)
    return name, [len(set(arrays["group"][split == part].tolist())) for part in range(len(SPLITS))]


def _print_labels(kind: str, counts: Mapping[str, list[int]]) -> None:
    """Classes with their counts and their share of training; names in brackets are no classes."""
    classes = {name: split for name, split in counts.items() if not name.startswith("(")}
    total = sum(split[0] for split in classes.values())
    rows = [
        (
            name,
            *(f"{count:,}" for count in split),
            f"{split[0] / total:.2%}" if name in classes and total else "",
        )
        for name, split in counts.items()
    ]
    numbers = ("train", "val", "test", "share of train")
    print_table((kind, *numbers), rows, right=numbers)
    seen = [split[0] for split in classes.values() if split[0]]
    if len(seen) > 1:
        ratio = max(seen) / min(seen)
        say(f"imbalance {ratio:,.3g}:1 (most to fewest in train, of {len(seen)} classes seen there)")


def _unnamed(family: Family, file: Path) -> list[str]:
    """Arrays that no field is named after: a misspelt optional field would be ignored in silence."""
    from trainables.data import field_names

    there = field_names(file)
    absent = [name for name, field in family.file_fields.items() if not field.required and name not in there]
    strange = [name for name in there if name not in family.file_fields]
    near = [
        f"'{name}' is not in the schema.{nearest(name, absent)}" for name in strange if nearest(name, absent)
    ]
    return [f"{shown_path(file)}: {line}" for line in near]


# ---- convert


@convert.command()
def soccernet(
    annotations: Annotated[
        Path, typer.Argument(metavar="ANNOTATIONS", help="annotations.json, or a folder with one a split.")
    ],
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="An npz file or a folder: one vector a clip.")
    ],
    out: OutFile,
    force: Force = False,
) -> None:
    """Convert SoccerNet MVFoul annotations and features of the clips, for the family multitask.

    The vector of a clip is an array of FEATURES named SET/action_N/clip_M (SET: train, valid or test), or,
    where FEATURES is a folder, the file SET/action_N/clip_M.npy in it. All have one length.

    \b
    Example:
      loss-search data convert soccernet mvfoul/ clip_features.npz fouls.npz
    """
    _refuse_out(out, force, annotations, features)
    from trainables.convert.soccernet import soccernet_arrays

    _store(_made(soccernet_arrays, annotations, features), out, "multitask")


@convert.command()
def wyscout(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds events_<Competition>.json.")],
    out: OutFile,
    clean: Annotated[
        float,
        typer.Option(
            min=0.0, max=10.0, help="Clean duels taken for each foul; with 0 no task of offence is left."
        ),
    ] = 0.2,
    force: Force = False,
) -> None:
    """Convert Wyscout match events (Pappalardo et al. 2019), for the family multitask.

    Examples are the fouls and a fixed choice of duels without one; features are what went before.

    \b
    Example:
      loss-search data convert wyscout wyscout/events/ fouls.npz
    """
    _refuse_out(out, force, folder)
    from trainables.convert.wyscout import wyscout_arrays

    _store(_made(wyscout_arrays, folder, clean), out, "multitask")


@convert.command()
def events(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An HDF5 or npz file.")],
    out: OutFile,
    dataset: Annotated[
        str | None,
        typer.Option(help="The array of events.", show_default="the only one of two axes and 92 columns"),
    ] = None,
    split_key: Annotated[
        str | None,
        typer.Option(help="An array of train, val, test or 0, 1, 2.", show_default="a hash of row blocks"),
    ] = None,
    label_key: Annotated[str | None, typer.Option(help="An array of whole numbers, kept as y.")] = None,
    force: Force = False,
) -> None:
    """Convert particle-physics events of 92 columns, for the family tokens.

    Columns: 18 ids, MET, METphi, 18 times (E, pT, eta, phi); ids are whole numbers, 0 for no object.

    \b
    Example:
      loss-search data convert events events.h5 events.npz --dataset data/X --split-key data/split
    """
    _refuse_out(out, force, source)
    from trainables.convert.events import event_arrays

    _store(_made(event_arrays, source, dataset, split_key, label_key), out, "tokens")


@convert.command()
def pages(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Page images and their transcript.")],
    out: OutFile,
    transcript: Annotated[
        Path | None,
        typer.Option(help="A JSON or CSV file.", show_default="transcript.json or .csv in FOLDER"),
    ] = None,
    panels: Annotated[
        int | None, typer.Option(min=1, max=32, help="Cut pages without boxes into so many columns.")
    ] = None,
    force: Force = False,
) -> None:
    """Convert page images (PNG, JPEG) with a transcript, for the family panels.

    Rows of the transcript have page, panel (from 0) and text, and may have speaker and the panel's box in
    pixels: x, y, w, h.

    \b
    Examples:
      loss-search data convert pages comic/ comic.npz
      loss-search data convert pages strips/ strips.npz --panels 3
    """
    _refuse_out(out, force, folder, *([transcript] if transcript else []))
    from trainables.convert.pages import page_arrays

    _store(_made(page_arrays, folder, transcript, panels), out, "panels")


def _refuse_out(out: Path, force: bool, *inputs: Path) -> None:
    """Raises BadInput for what cannot be read or must not be written, before any work is done."""
    for path in inputs:
        if not os.path.exists(path):  # unlike Path.exists, False too for a name that is too long
            raise BadInput(f"{path}: does not exist")
    if out.suffix != ".npz":
        raise BadInput(f"OUT {out}: must end with .npz")
    if not out.parent.is_dir():
        raise BadInput(f"OUT {out}: {out.parent} is no directory; make it first")
    if not os.path.lexists(out):
        return
    if out.exists() and any(path.samefile(out) for path in inputs):
        raise BadInput(f"OUT {out}: is also the input; name another file")
    if not out.is_file():
        raise BadInput(f"OUT {out}: exists and is no regular file; name another")
    if not force:
        raise BadInput(f"OUT {out}: exists; name another file, or give --force to replace it")


def _made(make: Callable[..., Converted], *arguments: Any) -> Converted:
    try:
        return make(*arguments)
    except OSError as error:
        raise BadInput(
            f"{error.filename or arguments[0]}: cannot be read ({error.strerror or error})"
        ) from error


def _store(converted: Converted, out: Path, family: str) -> None:
    from trainables.convert import write_npz

    try:
        write_npz(converted.arrays, out)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise BadInput(f"OUT {out}: cannot be written ({error.strerror})") from error
    rows = [(name, str(array.dtype), _shape(array)) for name, array in converted.arrays.items()]
    print_table(("array", "type", "shape"), rows)
    say()
    for note in converted.notes:
        say(f"note: {note}")
    say(f"{shown_path(out)}: {out.stat().st_size:,} bytes; see what is in it with:")
    say(f"  loss-search data check {family} {shown_path(out)}")

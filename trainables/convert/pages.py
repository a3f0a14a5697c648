"""Page images with a transcript, cut into panels, for `panels`.

A folder holds one image a page, `<page>.png` or `<page>.jpg`, and `transcript.json` or `transcript.csv`. A
row of the transcript is one piece of text (JSON: a list of mappings; CSV: a head line and lines):

    page      name of the image, with or without its ending
    panel     place of the panel on the page in reading order, from 0
    x, y      left and upper edge of the panel, pixels of the image (optional)
    w, h      its width and height, pixels (optional, with x and y)
    text      what is said in it; may be empty (optional)
    speaker   who says it (optional)

Rows of one panel have their texts joined by a space, in their order. A page has boxes for all its panels or
for none; one without is cut into equal columns, from left to right. Pages are hashed into the splits.
"""

from __future__ import annotations

import csv
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from trainables.convert import (
    Converted,
    entry_of,
    hashed_split,
    number_of,
    read_json,
    sayable,
    text_of,
    whole_of,
)
from trainables.errors import BadData

__all__ = ["COMP_NAMES", "SIDE", "page_arrays"]

SIDE = 64  # pixels
COMP_NAMES = ("aspect", "size_ratio", "center_x", "center_y", "width", "height", "order")
ENDINGS = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 50_000_000  # of one page; a scan of A4 at 600 dpi has 35 million
MOST_BYTES = 256 * 2**20  # of an image or a transcript
MOST_PANELS = 32  # on one page, as the family takes them
LEAST_SIDE = 2  # pixels of a panel
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
BOX = ("x", "y", "w", "h")
COLUMNS = ("page", "panel", *BOX, "text", "speaker")
# What pillow raises on files that are damaged or made to harm.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class Row(NamedTuple):
    """One row of the transcript. `box` is (x, y, w, h) in pixels, or None."""

    place: str
    panel: int
    box: tuple[float, ...] | None
    text: str
    speaker: str


class Panel(NamedTuple):
    box: tuple[float, ...]
    text: str
    speakers: str


def page_arrays(folder: Path, transcript: Path | None = None, columns: int | None = None) -> Converted:
    """The arrays of `panels` from a folder of pages.

    Args:
        transcript: a file elsewhere than in the folder.
        columns: how many columns a page without boxes is cut into; pages that the transcript does not name
            are then taken, too. None: such pages are refused.
    Returns:
        images u8[M, 64, 64, 3], strip (index of the page in `strip_ids`), panel (0, 1, ... on the page),
        comp f32[M, 7] (width / height; area, centre, width and height as shares of the page's; rank on the
        page from 0 to 1), has_text, text, speakers, split, strip_ids, comp_names.
    Raises:
        BadData: an image or the transcript is not as described.
    """
    pages = _images(folder)
    rows = _rows(folder, transcript, pages)
    images, comps, strips, places, panels, names = [], [], [], [], [], []
    for name, path in pages.items():
        if name not in rows and columns is None:
            raise BadData(
                f"{path}: is not in the transcript; remove it, or cut it into columns with --panels"
            )
        page = _opened(path)
        of_page = _panels(str(path), rows.get(name, []), page.size, columns)
        for number, panel in enumerate(of_page):
            images.append(_cut(page, panel.box))
            comps.append(_layout(panel.box, page.size, number, len(of_page)))
            strips.append(len(names))
            places.append(number)
            panels.append(panel)
        names.append(name)
    single = sum(strips.count(strip) == 1 for strip in set(strips))
    split, notes = hashed_split(folder, [names[strip] for strip in strips])
    notes += (
        [f"{single} pages have one panel, which has no other of its page to be compared with"]
        if single
        else []
    )
    arrays = {
        "images": np.stack(images),
        "strip": np.array(strips, np.int32),
        "panel": np.array(places, np.int16),
        "comp": np.array(comps, np.float32),
        "has_text": np.array([bool(panel.text) for panel in panels]),
        "text": np.array([panel.text for panel in panels]),
        "speakers": np.array([panel.speakers for panel in panels]),
        "split": split,
        "strip_ids": np.array(names),
        "comp_names": np.array(COMP_NAMES),
    }
    return Converted(arrays, notes)


# ---- the folder


def _images(folder: Path) -> dict[str, Path]:
    """Page name -> its image, by name."""
    if not folder.is_dir():
        raise BadData(f"{folder}: is no folder; give the one that holds the page images")
    pages: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file():
            name = text_of(f"{folder}: a file name", path.stem)
            if name in pages:
                raise BadData(f"{folder}: {pages[name].name} and {path.name} are one page's; remove one")
            pages[name] = path
    if not pages:
        raise BadData(f"{folder}: holds no page image ({', '.join(ENDINGS)})")
    return pages


def _rows(folder: Path, transcript: Path | None, pages: dict[str, Path]) -> dict[str, list[Row]]:
    """Page name -> its rows of the transcript."""
    if transcript is None:
        found = [path for path in (folder / "transcript.json", folder / "transcript.csv") if path.exists()]
        if len(found) != 1:
            what = "both transcript.json and transcript.csv" if found else "neither transcript.json nor .csv"
            raise BadData(f"{folder}: holds {what}; name one with --transcript")
        transcript = found[0]
    # Pages are looked up among the files that are there: their names in the transcript are never paths.
    known = {**{path.name: name for name, path in pages.items()}, **{name: name for name in pages}}
    rows: dict[str, list[Row]] = {}
    for place, entry in _entries(transcript):
        page = text_of(f"{place}: 'page'", entry_of(place, entry, "page"))
        if page not in known:
            raise BadData(f"{place}: 'page' is {sayable(page)}, but {folder} holds no image of that name")
        rows.setdefault(known[page], []).append(_row(place, entry))
    if not rows:
        raise BadData(f"{transcript}: has no rows")
    return rows


def _entries(path: Path) -> list[tuple[str, Any]]:
    """The place and the content of each row."""
    if path.suffix.lower() != ".csv":
        content = read_json(path, MOST_BYTES)
        if not isinstance(content, list):
            raise BadData(f"{path}: holds {sayable(content)}, but must hold a list of rows")
        return [(f"{path}: row {number}", entry) for number, entry in enumerate(content)]
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadData(f"{path}: has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        names = list(reader.fieldnames or ())
        if "page" not in names or "panel" not in names:
            raise BadData(
                f"{path}:1: the head line has no page or no panel; its columns are {COLUMNS}, found {names}"
            )
        return [(f"{path}:{reader.line_num}", _filled(entry)) for entry in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path}: cannot be read as CSV in UTF-8 ({str(error)[:100]})") from error


def _filled(entry: dict[str | None, Any]) -> dict[Any, Any]:
    """A line of a CSV file without its empty cells."""
    return {name: cell for name, cell in entry.items() if cell not in ("", None)}


def _row(place: str, entry: Any) -> Row:
    unknown = [name for name in entry if name not in COLUMNS]
    if unknown:
        raise BadData(f"{place}: found {sayable(unknown[0])}, but a row has {', '.join(COLUMNS)}")
    box = [entry.get(name) for name in BOX]
    if any(edge is None for edge in box) and any(edge is not None for edge in box):
        raise BadData(f"{place}: has some of x, y, w, h; give all four or none")
    return Row(
        place,
        whole_of(f"{place}: 'panel'", entry_of(place, entry, "panel"), 0, MOST_PANELS - 1),
        None
        if box[0] is None
        else tuple(number_of(f"{place}: {n!r}", e) for n, e in zip(BOX, box, strict=True)),
        text_of(f"{place}: 'text'", entry.get("text")),
        text_of(f"{place}: 'speaker'", entry.get("speaker")),
    )


# ---- pages and panels


def _opened(path: Path) -> Image.Image:
    """The page in RGB, on white where it is transparent."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadData(f"{path}: has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise BadData(f"{path}: has {width} x {height} pixels; at most {MOST_PIXELS:,} are unpacked")
            if image.mode not in MODES:
                raise BadData(f"{path}: has pixels of the kind {image.mode}; save it with 8 bits a colour")
            if "A" not in image.mode and "transparency" not in image.info:
                return image.convert("RGB")
            layered = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    except BadData:
        raise
    except UNREADABLE as error:
        raise BadData(f"{path}: is no readable PNG or JPEG ({str(error)[:100]})") from error


def _panels(place: str, rows: list[Row], size: tuple[int, int], columns: int | None) -> list[Panel]:
    """The panels of one page in reading order."""
    boxes: dict[int, tuple[float, ...]] = {}
    for row in rows:
        if row.box is not None:
            if boxes.setdefault(row.panel, row.box) != row.box:
                raise BadData(f"{row.place}: panel {row.panel} has another box in an earlier row")
            _check_box(row, size)
    if not boxes:
        if columns is None:
            raise BadData(f"{place}: has no boxes in the transcript; cut it into columns with --panels")
        width = size[0] / columns
        boxes = {number: (number * width, 0.0, width, float(size[1])) for number in range(columns)}
        if width < LEAST_SIDE or size[1] < LEAST_SIDE:
            raise BadData(f"{place}: has {size[0]} x {size[1]} pixels, too few for {columns} columns")
    for row in rows:
        if row.panel not in boxes:
            known = f"this page has boxes of panels {', '.join(map(str, sorted(boxes)))}"
            raise BadData(f"{row.place}: panel {row.panel} has no box; {known}")
    panels = []
    for number, box in sorted(boxes.items()):
        own = [row for row in rows if row.panel == number]
        text = " ".join(row.text for row in own if row.text)
        panels.append(Panel(box, text, " ".join(row.speaker for row in own if row.speaker)))
    return panels


def _check_box(row: Row, size: tuple[int, int]) -> None:
    x, y, w, h = row.box
    if x < 0 or y < 0 or w < LEAST_SIDE or h < LEAST_SIDE or x + w > size[0] or y + h > size[1]:
        found = f"x {x:g}, y {y:g}, w {w:g}, h {h:g}"
        allowed = f"must lie within {size[0]} x {size[1]} pixels and have sides of {LEAST_SIDE} or more"
        raise BadData(f"{row.place}: the box is {found}, but {allowed}")


def _cut(page: Image.Image, box: tuple[float, ...]) -> np.ndarray:
    """u8[64, 64, 3]: what lies in the box, stretched to a square."""
    x, y, w, h = box
    edges = (round(x), round(y), round(x + w), round(y + h))
    # Cut first: resampling with a box would mix in pixels of the neighbours.
    return np.asarray(page.crop(edges).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.uint8)


def _layout(box: tuple[float, ...], size: tuple[int, int], number: int, count: int) -> list[float]:
    """What COMP_NAMES lists."""
    (x, y, w, h), (width, height) = box, size
    shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    return [w / h, w * h / (width * height), *shares, number / max(count - 1, 1)]

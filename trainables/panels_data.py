"""Pages of panels (image, text, layout): a user's own from an npz file, and synthetic ones with words.

Both come as one row a panel, as a file holds them, and are then arranged: panels of one strip become a
page, padded to the largest number of panels and masked; images are averaged down, texts hashed, layouts
standardised.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainables.data import SPLIT_FIELDS, SPLITS, Field, checked_arrays, split_column
from trainables.errors import BadData
from trainables.family import Data

__all__ = ["LAYOUT", "PANEL_FIELDS", "arranged", "panel_file", "synthetic_rows", "text_counts"]

LAYOUT = 7  # layout numbers of a panel
MOST_PANELS = 32  # of a page; every page is padded to the largest
CHUNK = 4096  # panels painted or averaged at once
GRAM = 3  # characters
WORDS = re.compile(r"[^\W_]+")

SIDES = range(8, 1025)
PANEL_FIELDS = {
    "images": Field(("integer",), ("N", SIDES, SIDES, 3), 0, 255, help="RGB of each panel, all of one size"),
    "strip": Field(("integer",), ("N",), help="page (strip) that the panel belongs to"),
    "panel": Field(("integer",), ("N",), help="place of the panel on its page, in reading order"),
    "comp": Field(
        ("float", "integer"), ("N", LAYOUT), required=False, help="layout numbers; without it all are 0"
    ),
    "text": Field(("text",), ("N",), help="words of the panel; may be empty"),
    "has_text": Field(
        ("boolean",), ("N",), required=False, help="whether it has words; else: text not empty"
    ),
    "has_image": Field(("boolean",), ("N",), required=False, help="whether its image counts; else: all do"),
    **SPLIT_FIELDS,
}

# ---- files


def panel_file(path: str | os.PathLike[str] | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """The rows of a user's npz file with the fields of `PANEL_FIELDS`, complete, and warnings.

    `split` becomes i64[N] in 0..2. Without `split` and `group` the strips are hashed into 80/10/10.

    Raises:
        BadData: the file is not so, a (strip, panel) is there twice, or a strip lies in several splits.
    """
    if not path:
        raise BadData("data.source file: data.path is not set; give the path of an npz file")
    rows = checked_arrays(path, wanted=PANEL_FIELDS)
    _check_places(path, rows["strip"], rows["panel"])
    if "split" not in rows and "group" not in rows:
        rows["group"] = rows["strip"]
    rows["split"], found = split_column(path, rows)
    _check_whole(path, rows["strip"], rows["split"])
    number = len(rows["strip"])
    filled = np.char.strip(rows["text"]) != ""
    claimed = rows.setdefault("has_text", filled)
    if (claimed & ~filled).any():
        found.append(f"{path}: {int((claimed & ~filled).sum())} panels have 'has_text' but an empty 'text'")
    rows["has_text"] = claimed & filled
    rows.setdefault("has_image", np.ones(number, bool))
    rows.setdefault("comp", np.zeros((number, LAYOUT), np.float32))
    empty = int((~rows["has_image"] & ~rows["has_text"]).sum())
    if empty:
        found.append(f"{path}: {empty} panels have neither image nor text; no term and no metric counts them")
    return rows, found


def _check_places(path: str | os.PathLike[str], strip: np.ndarray, panel: np.ndarray) -> None:
    """Each place on a page is taken once, and no page is longer than MOST_PANELS."""
    places, first, counts = np.unique(
        np.stack([strip, panel], 1).astype(np.int64), axis=0, return_index=True, return_counts=True
    )
    if (counts > 1).any():
        page, place = places[counts > 1][0].tolist()
        again = np.flatnonzero((strip == page) & (panel == place))[:2].tolist()
        raise BadData(
            f"{path}: 'strip' {page} has 'panel' {place} in rows {again[0]} and {again[1]}; a place on a "
            "page holds one panel: number them anew or drop one"
        )
    pages, sizes = np.unique(strip, return_counts=True)
    if sizes.max() > MOST_PANELS:
        page = pages[sizes.argmax()].item()
        raise BadData(
            f"{path}: 'strip' {page} has {sizes.max()} panels, at most {MOST_PANELS} are allowed (every page "
            "is padded to the largest); cut such pages into several"
        )


def _check_whole(path: str | os.PathLike[str], strip: np.ndarray, split: np.ndarray) -> None:
    """All panels of a page lie in one split: a page in two would be known before it is retrieved."""
    pairs = np.unique(np.stack([strip, split], 1).astype(np.int64), axis=0)
    pages, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        page = pages[counts > 1][0].item()
        names = [SPLITS[part] for part in pairs[pairs[:, 0] == page, 1]]
        raise BadData(
            f"{path}: 'strip' {page} is torn between {' and '.join(names)} ({(counts > 1).sum()} strips "
            "are); give all panels of a strip one 'split' (or one 'group')"
        )


# ---- from rows to pages


def arranged(
    place: str, rows: Mapping[str, np.ndarray], *, side: int, buckets: int, warnings: Sequence[str] = ()
) -> Data:
    """Rows of panels as pages.

    Args:
        place: where they come from, for messages.
        rows: complete, as `panel_file` and `synthetic_rows` return them; M panels.
        side: S, pixels to which images are averaged. buckets: V, hashes of a text.
    Returns:
        splits of image u8[N, P, S, S, 3], text u8[N, P, V] (counts of hashes), layout f32[N, P, 7]
        (standardised by the training panels), panel_mask, has_image, has_text bool[N, P] and page i64[N],
        numbered through; and the facts panels P, side, buckets.
    Raises:
        BadData: no training page has two panels to compare.
    """
    order = np.lexsort((rows["panel"], rows["strip"]))
    _, first, page, sizes = np.unique(
        rows["strip"][order], return_index=True, return_inverse=True, return_counts=True
    )
    slot = np.arange(len(order)) - first[page]
    split = rows["split"][order][first]
    whole = {
        "image": (_averaged(rows["images"], side), rows["has_image"]),
        "text": (text_counts(rows["text"].tolist(), buckets), rows["has_text"]),
        "layout": (_standardised(rows["comp"], rows["split"] == 0), None),
        "panel_mask": (np.ones(len(order), bool), None),
        "has_image": (rows["has_image"], None),
        "has_text": (rows["has_text"], None),
    }
    pages: dict[str, np.ndarray] = {"page": np.arange(len(first))}
    for name, (values, there) in whole.items():
        kept = values if there is None else values * there.reshape(-1, *[1] * (values.ndim - 1))
        pages[name] = np.zeros((len(first), sizes.max(), *values.shape[1:]), values.dtype)
        pages[name][page, slot] = kept[order].astype(values.dtype)
    splits = {
        part: {name: torch.from_numpy(values[split == number]) for name, values in pages.items()}
        for number, part in enumerate(SPLITS)
    }
    found = [*warnings, *_scarcities(place, splits)]
    return Data(splits, {"panels": int(sizes.max()), "side": side, "buckets": buckets}, found)


def _scarcities(place: str, splits: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """What there is too little of; refused where no page could be learnt or retrieved."""
    found = []
    for name, part in splits.items():
        shown = (part["has_image"] | part["has_text"]) & part["panel_mask"]
        both = part["has_image"] & part["has_text"]
        single = int((shown.sum(1) < 2).sum())
        if single == len(shown):
            raise BadData(
                f"{place}: no {name} page has two panels with an image or a text; 'strip' must be equal for "
                "the panels of a page"
            )
        if 2 * single > len(shown):
            found.append(
                f"{place}: {single} of {len(shown)} {name} pages have fewer than two panels to compare"
            )
        if int(both.sum()) < 2:
            found.append(f"{place}: fewer than two {name} panels have image and text: nothing to align")
    return found


def _averaged(images: np.ndarray, side: int) -> np.ndarray:
    """u8[M, H, W, 3] -> u8[M, side, side, 3]: each pixel the rounded mean of the area that it covers."""
    if images.shape[1:3] == (side, side):
        return images.astype(np.uint8)
    parts = []
    for start in range(0, len(images), CHUNK):
        part = torch.from_numpy(images[start : start + CHUNK].astype(np.float32)).permute(0, 3, 1, 2)
        small = interpolate(part, size=(side, side), mode="area").permute(0, 2, 3, 1)
        parts.append(small.round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def _standardised(layout: np.ndarray, training: np.ndarray) -> np.ndarray:
    """f32[M, 7] of mean 0 and deviation 1 over the training panels; what never varies becomes 0."""
    layout = layout.astype(np.float64)
    mean, deviation = layout[training].mean(0), layout[training].std(0)
    varies = deviation > 1e-6 * (1 + np.abs(mean))
    return np.where(varies, (layout - mean) / np.where(varies, deviation, 1.0), 0.0).astype(np.float32)


def text_counts(texts: Sequence[str], buckets: int) -> np.ndarray:
    """How often each hash occurs in each text, u8[M, buckets], at most 255.

    Hashed are the words, in lower case, and the character trigrams of each word between marks of its begin
    and end, by CRC-32 modulo `buckets`: the same on every machine. Two words may share a bucket.

    Source: subwords as in Bojanowski et al. 2017, hashing as in Weinberger et al. 2009, without its signs.
    """
    counts = np.zeros((len(texts), buckets), np.uint8)
    for row, text in zip(counts, texts, strict=True):
        hashes = [number for word in WORDS.findall(text.lower()) for number in _hashes(word, buckets)]
        row[:] = np.bincount(hashes, minlength=buckets).clip(max=255) if hashes else 0
    return counts


@functools.lru_cache(maxsize=100_000)
def _hashes(word: str, buckets: int) -> tuple[int, ...]:
    marked = f"<{word}>"
    grams = [marked[start : start + GRAM] for start in range(len(marked) - GRAM + 1)]
    return tuple(zlib.crc32(token.encode()) % buckets for token in (f"={word}", *grams))


# ---- synthetic pages

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "yellow": (240, 220, 50),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "pink": (240, 130, 200),
    "cyan": (60, 220, 230),
}
SHAPES = ("square", "disc", "ring", "cross", "triangle", "bar")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
SIZES = ("small", "large")
PLACES = (
    "forest", "harbour", "desert", "kitchen", "tower", "market", "garden", "station", "cave", "meadow",
    "library", "island",
)  # fmt: skip
NAMES = (
    "Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Kira", "Leo",
    "Maya", "Nils", "Olga", "Piet",
)  # fmt: skip
OBJECTS = 2
PANELS_A_PAGE = (0.04, 0.08, 0.40, 0.48)  # shares of pages with 1, 2, 3 and 4 panels
MISSING_IMAGE, MISSING_TEXT = 0.06, 0.08  # shares of panels; none misses both


def synthetic_rows(size: int, *, side: int, seed: int, twins: float, jitter: float) -> dict[str, np.ndarray]:
    """Pages that share a place, a hero and a style of background, with objects that the texts name.

    A text reads "Ada in the forest: small red ring top left, large blue bar middle right". The background's
    hue belongs to the place, its stripes to the page.

    Args:
        size: number of training pages; val and test have an eighth of it each. side: pixels.
        seed: the same seed, the same pages; each split draws from a stream of its own.
        twins: share of pages, in [0, 1], that come in pairs of one place and style; their heroes differ.
        jitter: how far panels of one page stray from its style, and the noise of pixels, in units of what is
            usual.
    """
    parts, strips = [], 0
    for number, count in enumerate((size, max(1, size // 8), max(1, size // 8))):
        draw = np.random.default_rng([seed, number])
        rows = _pages(count, draw, side, twins, jitter)
        rows["strip"] += strips
        rows["split"] = np.full(len(rows["strip"]), number)
        strips += count
        parts.append(rows)
    return {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}


def _pages(
    count: int, draw: np.random.Generator, side: int, twins: float, jitter: float
) -> dict[str, np.ndarray]:
    sizes = draw.choice(np.arange(1, 5), count, p=PANELS_A_PAGE)
    sizes[: min(count, 2)] = 4  # however few pages there are, some have panels to compare
    borrows = (draw.random(count) < twins) & (np.arange(count) % 2 == 1)
    source = np.arange(count) - borrows
    style = draw.random((count, 6))[source]  # hue within the place, second hue, angle, frequency, two shades
    place, hero = draw.integers(0, len(PLACES), count)[source], draw.integers(0, len(NAMES), count)
    strip = np.repeat(np.arange(count), sizes)
    panel = np.concatenate([np.arange(n) for n in sizes])
    total = len(strip)
    things = {
        "colour": draw.integers(0, len(COLOURS), (total, OBJECTS)),
        "shape": draw.integers(0, len(SHAPES), (total, OBJECTS)),
        "cell": draw.permuted(np.tile(np.arange(9), (total, 1)), axis=1)[:, :OBJECTS],
        "size": draw.integers(0, len(SIZES), (total, OBJECTS)),
    }
    text = [_sentence(hero[page], place[page], row, things) for row, page in enumerate(strip)]
    missing = draw.random((2, total))
    has_image, has_text = missing[0] >= MISSING_IMAGE, missing[1] >= MISSING_TEXT
    has_text |= ~has_image
    panel_style = style[strip] + 0.03 * jitter * draw.standard_normal((total, 6))
    images = [
        _painted(draw, side, jitter, panel_style[s], place[strip[s]], {k: v[s] for k, v in things.items()})
        for s in (slice(start, start + CHUNK) for start in range(0, total, CHUNK))
    ]
    return {
        "images": np.concatenate(images) * has_image[:, None, None, None],
        "strip": strip,
        "panel": panel,
        "comp": _layout(panel, sizes[strip]),
        "text": np.where(has_text, np.array(text), ""),
        "has_text": has_text,
        "has_image": has_image,
    }


def _sentence(hero: int, place: int, row: int, things: Mapping[str, np.ndarray]) -> str:
    said = []
    for number in range(OBJECTS):
        colour, shape, cell, size = (int(things[k][row, number]) for k in ("colour", "shape", "cell", "size"))
        where = f"{ROWS[cell // 3]} {COLUMNS[cell % 3]}"
        said.append(f"{SIZES[size]} {tuple(COLOURS)[colour]} {SHAPES[shape]} {where}")
    return f"{NAMES[hero]} in the {PLACES[place]}: {', '.join(said)}"


def _layout(panel: np.ndarray, size: np.ndarray) -> np.ndarray:
    """f32[M, 7]: left, top, width, height, area, place in reading order, panels of the page; pages of one
    length look alike, so that the layout gives no page away.
    """
    columns = np.where(size == 4, 2, size)
    rows = np.where(size == 4, 2, 1)
    left, top = panel % columns / columns, panel // columns / rows
    width, height = 1 / columns, 1 / rows
    order = panel / np.maximum(size - 1, 1)
    return np.stack([left, top, width, height, width * height, order, size / 4], 1).astype(np.float32)


def _painted(
    draw: np.random.Generator,
    side: int,
    jitter: float,
    style: np.ndarray,
    place: np.ndarray,
    things: Mapping[str, np.ndarray],
) -> np.ndarray:
    """u8[M, side, side, 3]: striped backgrounds, objects on them, noise."""
    total = len(style)
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / side
    style = style.astype(np.float32)[:, :, None, None]
    hue, other, angle, frequency, low, high = style.swapaxes(0, 1)
    angle, waves = np.pi * angle, 2 + 4 * frequency
    phase = draw.random((total, 1, 1), dtype=np.float32)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * (waves * (x * np.cos(angle) + y * np.sin(angle)) + phase))
    first = _tint((place[:, None, None] + 0.8 * hue) / len(PLACES), 0.45 + 0.2 * low)
    second = _tint(other, 0.45 + 0.2 * high)
    image = first + (second - first) * stripes[..., None]
    palette = np.array(list(COLOURS.values()), np.float32)
    for number in range(OBJECTS):
        colour, shape, cell, size = (things[k][:, number] for k in ("colour", "shape", "cell", "size"))
        shift = 0.03 * draw.standard_normal((2, total)).astype(np.float32)
        radius = np.where(size == 0, 0.09, 0.15).astype(np.float32)[:, None, None]
        across = (x - ((cell % 3 + 0.5) / 3 + shift[0]).astype(np.float32)[:, None, None]) / radius
        down = (y - ((cell // 3 + 0.5) / 3 + shift[1]).astype(np.float32)[:, None, None]) / radius
        inside = _inside(across, down, shape)[..., None]
        image = np.where(inside, palette[colour][:, None, None], image)
    image += 8.0 * jitter * draw.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 255).astype(np.uint8)


def _tint(hue: np.ndarray, value: np.ndarray) -> np.ndarray:
    """f32[M, 1, 1, 3], 0..255: a colour of moderate saturation; `hue` counts whole turns."""
    turns = hue[..., None] + np.array([0, 1 / 3, 2 / 3])
    return (255 * value[..., None] * (1 + 0.5 * np.cos(2 * np.pi * turns)) / 1.1).astype(np.float32)


def _inside(across: np.ndarray, down: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """bool[M, S, S]: which pixels a shape covers, from its coordinates in units of its radius."""
    masks = {
        "square": lambda u, v: (abs(u) < 0.9) & (abs(v) < 0.9),
        "disc": lambda u, v: u * u + v * v < 1,
        "ring": lambda u, v: (u * u + v * v < 1) & (u * u + v * v > 0.3),
        "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.35) & (np.maximum(abs(u), abs(v)) < 1),
        "triangle": lambda u, v: (abs(v) < 0.9) & (abs(u) < (v + 0.9) / 1.8),
        "bar": lambda u, v: (abs(u) < 1) & (abs(v) < 0.4),
    }
    inside = np.zeros(across.shape, bool)
    for number, name in enumerate(SHAPES):
        rows = np.flatnonzero(shape == number)
        inside[rows] = masks[name](across[rows], down[rows])
    return inside

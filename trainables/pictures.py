"""Pictures of what a model makes of its examples, drawn with pillow alone (a few milliseconds each)."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["ARC_PALETTE", "draw_grid_pairs", "fitted", "font", "write_atomically"]

# What ARC's own viewer shows for 0..9: black, blue, red, green, yellow, grey, magenta, orange, sky, maroon.
ARC_PALETTE = (
    (0, 0, 0),
    (0, 116, 217),
    (255, 65, 54),
    (46, 204, 64),
    (255, 220, 0),
    (170, 170, 170),
    (240, 18, 190),
    (255, 133, 27),
    (127, 219, 255),
    (135, 12, 37),
)

MOST_SAMPLES, SAMPLES_A_ROW = 10, 5
MARGIN, GAP, BETWEEN = 20, 10, 28  # pixels: around everything, inside a pair, between pairs
TITLE_HEIGHT, LABEL_HEIGHT, CAPTION_HEIGHT = 40, 18, 30
WHITE, LINES, INK, FAINT_INK = 255, 52, (30, 30, 30), (110, 110, 110)


def draw_grid_pairs(inputs: Tensor, outputs: Tensor, path: Path, title: str) -> None:
    """Up to ten grids beside their reconstructions, each with its accuracy, as a PNG under a title.

    "accuracy" is the share of cells that are right, "foreground" that share among cells whose input is not 0,
    both rounded down, so that 1.00 means all. The file appears under its name when it is whole: a reader
    never meets half of it.

    Args:
        inputs, outputs: whole numbers 0..9, [B, S, S]; of more than ten samples the first ten are drawn.
        path: the PNG; its directory exists. A file of that name is replaced.
        title: one line; its end is cut off where it is wider than the picture.
    Raises:
        ValueError: no samples, two shapes, or a value outside 0..9.
    """
    given, made = (side[:MOST_SAMPLES].cpu().numpy() for side in (inputs, outputs))
    if given.shape != made.shape or given.ndim != 3 or given.size == 0:
        raise ValueError(f"grids must be [B, S, S] twice, not {list(inputs.shape)}, {list(outputs.shape)}")
    for values in (given, made):
        if values.min() < 0 or values.max() >= len(ARC_PALETTE):
            raise ValueError(f"colours go from 0 to 9, found {values.min()} to {values.max()}")
    write_atomically(_draw_pairs(given, made, title), path)


def _draw_pairs(given: np.ndarray, made: np.ndarray, title: str) -> Image.Image:
    tiles = [(_tile(one), _tile(other)) for one, other in zip(given, made, strict=True)]
    tile_height, tile_width = tiles[0][0].shape[:2]
    column_width = 2 * tile_width + GAP + BETWEEN
    row_height = LABEL_HEIGHT + tile_height + CAPTION_HEIGHT
    columns = min(len(tiles), SAMPLES_A_ROW)
    rows = -(-len(tiles) // SAMPLES_A_ROW)
    width = 2 * MARGIN + columns * column_width - BETWEEN
    canvas = np.full((MARGIN // 2 + TITLE_HEIGHT + rows * row_height, width, 3), WHITE, np.uint8)
    corners = [
        (MARGIN + index % SAMPLES_A_ROW * column_width, TITLE_HEIGHT + index // SAMPLES_A_ROW * row_height)
        for index in range(len(tiles))
    ]
    for (left, top), pair in zip(corners, tiles, strict=True):
        for tile, start in zip(pair, (left, left + tile_width + GAP), strict=True):
            canvas[top + LABEL_HEIGHT :, start:][:tile_height, :tile_width] = tile
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, TITLE_HEIGHT / 2), fitted(title, width - 2 * MARGIN), INK, font(16), anchor="lm")
    for (left, top), one, other in zip(corners, given, made, strict=True):
        middles = (left + tile_width / 2, left + tile_width * 1.5 + GAP)
        for middle, label in zip(middles, ("input", "reconstruction"), strict=True):
            draw.text((middle, top + LABEL_HEIGHT - 4), label, FAINT_INK, font(12), anchor="ms")
        below = (left + tile_width + GAP / 2, top + LABEL_HEIGHT + tile_height + 14)
        draw.text(below, _caption(one, other), INK, font(13), anchor="ms")
    return picture


def _tile(grid: np.ndarray) -> np.ndarray:
    """u8[h, w, 3]: a grid's cells as squares with a line of one pixel around each."""
    pitch = int(np.clip(128 // max(grid.shape), 3, 8))
    colours = np.array(ARC_PALETTE, np.uint8)[grid]
    tile = colours.repeat(pitch, 0).repeat(pitch, 1)
    tile[::pitch] = LINES
    tile[:, ::pitch] = LINES
    return np.pad(tile, ((0, 1), (0, 1), (0, 0)), constant_values=LINES)


def _caption(one: np.ndarray, other: np.ndarray) -> str:
    right, foreground = one == other, one != 0
    share = _hundredths(right[foreground]) if foreground.any() else "none"
    return f"accuracy {_hundredths(right)}   foreground {share}"


def _hundredths(right: np.ndarray) -> str:
    return f"{int(right.sum()) * 100 // right.size / 100:.2f}"


def fitted(title: str, width: float) -> str:
    """`title` on one line, cut at its end so that it is at most `width` pixels wide."""
    title = " ".join(title.split())
    letters = font(16)
    if letters.getlength(title) <= width:
        return title
    while title and letters.getlength(title + "...") > width:
        title = title[:-1]
    return title + "..."


@functools.lru_cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of every picture, at a size in pixels."""
    return ImageFont.load_default(size)


def write_atomically(picture: Image.Image, path: Path) -> None:
    """PNG under `path`, which shows the former file or the whole new one at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG", compress_level=3)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

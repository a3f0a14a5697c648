"""A picture of which panels a model finds near: queries on the left, their nearest beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from trainables.pictures import fitted, font, write_atomically

__all__ = ["draw_neighbours", "neighbours"]

QUERIES, NEAREST = 10, 4
TILE, FRAME, GAP, AFTER_QUERY = 72, 4, 6, 18  # pixels
MARGIN, TITLE_HEIGHT, LABEL_HEIGHT = 16, 36, 16
PAPER, INK, FAINT_INK = (255, 255, 255), (30, 30, 30), (110, 110, 110)
SAME_PAGE, OTHER_PAGE, QUERY = (34, 139, 34), (190, 190, 190), (30, 30, 30)


def neighbours(fused: Tensor, page: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Up to ten queries i64[Q], the first panel of each page that has another, and their four nearest
    i64[Q, 4] by cosine (fewer where there are fewer panels); both count panels.

    Args:
        fused: f[M, E], of length 1. page: i64[M], panels of one page side by side.
    """
    similarity = (fused @ fused.T).double()
    similarity.fill_diagonal_(-torch.inf)
    same = page.unsqueeze(1) == page
    first = ~(same.tril(-1).any(1)) & (same.sum(1) > 1)
    queries = first.nonzero().flatten()[:QUERIES]
    nearest = similarity[queries].topk(min(NEAREST, len(fused) - 1)).indices
    return queries.cpu().numpy(), nearest.cpu().numpy()


def draw_neighbours(
    image: Tensor, has_image: Tensor, fused: Tensor, page: Tensor, path: Path, title: str
) -> None:
    """Query panels and their four nearest by cosine, as a PNG under a title; a green frame: the same page.

    A panel without an image is a tile that says so. The file appears under its name when it is whole.

    Args:
        image: u8[M, S, S, 3] of M panels. has_image: bool[M]. fused: f[M, E], of length 1. page: i64[M],
            panels of one page side by side.
        path: the PNG; its directory exists. A file of that name is replaced.
        title: one line; its end is cut off where it is wider than the picture.
    Raises:
        ValueError: no page has two panels.
    """
    queries, nearest = neighbours(fused, page)
    if len(queries) == 0:
        raise ValueError(f"none of the {len(page)} panels has another on its page: no query to draw")
    pages, there = page.cpu().numpy(), has_image.cpu().numpy()
    tiles = [_tile(one, bool(seen)) for one, seen in zip(image.cpu().numpy(), there, strict=True)]
    step = TILE + 2 * FRAME + GAP
    width = 2 * MARGIN + (1 + nearest.shape[1]) * step - GAP + AFTER_QUERY
    top = TITLE_HEIGHT + LABEL_HEIGHT
    picture = Image.new("RGB", (width, top + len(queries) * step + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, TITLE_HEIGHT / 2), fitted(title, width - 2 * MARGIN), INK, font(16), anchor="lm")
    draw.text((MARGIN, top - 4), "panel", FAINT_INK, font(12), anchor="ls")
    beside = MARGIN + step + AFTER_QUERY
    draw.text((beside, top - 4), "nearest; green: same page", FAINT_INK, font(12), anchor="ls")
    for row, (query, found) in enumerate(zip(queries, nearest, strict=True)):
        height = top + row * step
        _place(picture, tiles[query], (MARGIN, height), QUERY)
        for number, other in enumerate(found):
            frame = SAME_PAGE if pages[other] == pages[query] else OTHER_PAGE
            _place(picture, tiles[other], (beside + number * step, height), frame)
    write_atomically(picture, path)


def _tile(image: np.ndarray, seen: bool) -> Image.Image:
    if seen:
        return Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    ImageDraw.Draw(tile).text((TILE / 2, TILE / 2), "text only", FAINT_INK, font(12), anchor="mm")
    return tile


def _place(picture: Image.Image, tile: Image.Image, corner: tuple[int, int], frame: tuple) -> None:
    framed = Image.new("RGB", (TILE + 2 * FRAME, TILE + 2 * FRAME), frame)
    framed.paste(tile, (FRAME, FRAME))
    picture.paste(framed, corner)

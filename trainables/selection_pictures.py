"""Pictures of referential games, drawn with pillow: what was shown, said, chosen and repainted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from trainables.pictures import ARC_PALETTE, fitted, font, write_atomically

__all__ = ["MOST_GAMES", "MOST_SHOWN", "Games", "draw_games"]

MOST_GAMES = 8  # a row each
MOST_SHOWN = 16  # candidates of one game; of more, the target, the choice and the first of the others
TILE, GAP, MARGIN = 84, 10, 16  # pixels: of one grid's square, between two, around everything
TITLE_HEIGHT, HEADING, CAPTION = 40, 20, 26
MESSAGE_WIDTH = 150
WHITE, INK, FAINT_INK, LINES = (255, 255, 255), (30, 30, 30), (110, 110, 110), (52, 52, 52)
RIGHT, WRONG = (0, 140, 60), (200, 30, 30)


class Games(NamedTuple):
    """Examples in whole games of `candidates`: `grid` and `painted` i64[B, S, S], `hw` i64[B, 2], `choice`
    i64[B] (place within the game), `message` i64[B, L]."""

    grid: Tensor
    hw: Tensor
    painted: Tensor
    choice: Tensor
    message: Tensor
    candidates: int


def draw_games(games: Games, path: Path, title: str) -> None:
    """A row for each of up to eight games: target, message, reconstruction, and the candidates.

    The choice has a frame, green when it is the target and red when not; then the target's is green and
    dashed. "right" is the share of the target's own cells that the reconstruction repaints, rounded down.

    Args:
        games: at least one whole game; of B examples as targets, up to eight at equal distances are drawn.
        path: the PNG; its directory exists. A file of that name is replaced.
        title: one line; its end is cut off where it is wider than the picture.
    Raises:
        ValueError: no whole number of games.
    """
    size = len(games.grid)
    if size == 0 or size % games.candidates:
        raise ValueError(f"{size} examples are no whole number of games of {games.candidates}")
    games = Games(*(part.numpy() for part in games[:-1]), games.candidates)
    targets = np.unique(np.linspace(0, size - 1, min(size, MOST_GAMES)).astype(int))
    shown = min(games.candidates, MOST_SHOWN)
    row_height = TILE + CAPTION
    width = 2 * MARGIN + MESSAGE_WIDTH + (2 + shown) * (TILE + GAP)
    picture = Image.new("RGB", (width, TITLE_HEIGHT + HEADING + len(targets) * row_height), WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, TITLE_HEIGHT / 2), fitted(title, width - 2 * MARGIN), INK, font(16), anchor="lm")
    columns = _columns(shown)
    for left, heading in zip(columns, ("target", "message", "reconstruction", "candidates"), strict=False):
        draw.text((left, TITLE_HEIGHT), heading, FAINT_INK, font(12))
    for number, target in enumerate(targets):
        _draw_row(picture, games, int(target), columns, TITLE_HEIGHT + HEADING + number * row_height)
    write_atomically(picture, path)


def _columns(shown: int) -> list[int]:
    """Left edges: target, message, reconstruction, then the candidates."""
    painted = MARGIN + TILE + GAP + MESSAGE_WIDTH
    return [MARGIN, MARGIN + TILE + GAP, *(painted + place * (TILE + GAP) for place in range(shown + 1))]


def _draw_row(picture: Image.Image, games: Games, target: int, columns: list[int], top: int) -> None:
    draw = ImageDraw.Draw(picture)
    first = target // games.candidates * games.candidates
    chosen = first + int(games.choice[target])
    height, width = games.hw[target]
    right = (games.grid == games.painted)[target, :height, :width]
    words = " ".join(str(symbol) for symbol in games.message[target].tolist())
    _paste(picture, games.grid[target], games.hw[target], columns[0], top)
    draw.text((columns[1], top + TILE / 2), fitted(words, MESSAGE_WIDTH - GAP), INK, font(16), anchor="lm")
    _paste(picture, games.painted[target], games.hw[target], columns[2], top)
    share = f"right {int(right.sum()) * 100 // right.size / 100:.2f}"
    draw.text((columns[2], top + TILE + 3), share, INK if chosen == target else FAINT_INK, font(12))
    for left, place in zip(
        columns[3:], _places(games.candidates, target - first, chosen - first), strict=True
    ):
        _paste(picture, games.grid[first + place], games.hw[first + place], left, top)
        if first + place == chosen:
            _frame(draw, left, top, RIGHT if chosen == target else WRONG, dashed=False)
        elif first + place == target:
            _frame(draw, left, top, RIGHT, dashed=True)


def _places(candidates: int, target: int, chosen: int) -> list[int]:
    """The candidates that are drawn, in order: all, or the target, the choice and the first of the others."""
    wanted = sorted({target, chosen})
    others = [place for place in range(candidates) if place not in wanted]
    return sorted(wanted + others[: MOST_SHOWN - len(wanted)])


def _paste(picture: Image.Image, grid: np.ndarray, hw: np.ndarray, left: int, top: int) -> None:
    """The cells of a grid inside its own size, as squares with lines between, in the middle of a tile."""
    height, width = (int(length) for length in hw)
    pitch = max(2, (TILE - 5) // max(height, width))
    colours = np.array(ARC_PALETTE, np.uint8)[grid[:height, :width]]
    cells = colours.repeat(pitch, 0).repeat(pitch, 1)
    if pitch > 3:
        cells[::pitch] = LINES
        cells[:, ::pitch] = LINES
    corner = (left + (TILE - width * pitch) // 2, top + (TILE - height * pitch) // 2)
    picture.paste(Image.fromarray(cells), corner)


def _frame(
    draw: ImageDraw.ImageDraw, left: int, top: int, colour: tuple[int, int, int], *, dashed: bool
) -> None:
    if not dashed:
        draw.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), outline=colour, width=3)
        return
    for start in range(-3, TILE + 3, 12):
        end = min(start + 6, TILE + 2)
        for edge in (-3, TILE):
            draw.rectangle((left + start, top + edge, left + end, top + edge + 2), fill=colour)
            draw.rectangle((left + edge, top + start, left + edge + 2, top + end), fill=colour)

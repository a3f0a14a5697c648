"""Pictures show the grids in ARC's colours, and are whole or absent."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.pictures import ARC_PALETTE, LABEL_HEIGHT, TITLE_HEIGHT, _caption, draw_grid_pairs


def _grids(num_samples=10, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 10, (num_samples, side, side), generator=generator)


def _pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
        return np.asarray(picture.convert("RGB"))


GRID_ROWS = slice(TITLE_HEIGHT + LABEL_HEIGHT, TITLE_HEIGHT + LABEL_HEIGHT + 16 * 8 + 1)  # of the first row


def _area(pixels, colour):
    return int((pixels == colour).all(-1).sum())


def test_a_picture_is_a_png_with_a_white_ground_and_every_colour_of_the_palette(tmp_path):
    grids = _grids()
    draw_grid_pairs(grids, grids, tmp_path / "a.png", "title")
    pixels = _pixels(tmp_path / "a.png")
    assert all(_area(pixels, colour) > 0 for colour in ARC_PALETTE)
    assert (pixels[0] == 255).all() and (pixels[-1] == 255).all()


@pytest.mark.parametrize("colour", range(1, 10))
def test_each_cell_takes_its_colour_on_both_sides(tmp_path, colour):
    given = torch.zeros(1, 16, 16, dtype=torch.int64)
    made = given.clone()
    given[0, 2, 3] = colour
    draw_grid_pairs(given, given, tmp_path / "both.png", "")
    draw_grid_pairs(given, made, tmp_path / "left.png", "")
    pictures = (
        _pixels(tmp_path / name)[GRID_ROWS] for name in ("both.png", "left.png")
    )  # text has greys too
    both, left = (_area(picture, ARC_PALETTE[colour]) for picture in pictures)
    assert left == 7 * 7  # a pitch of 8 pixels, one of them the line
    assert both == 2 * left


def test_the_input_stands_left_of_its_reconstruction_and_rows_run_downwards(tmp_path):
    given = torch.zeros(1, 16, 16, dtype=torch.int64)
    made = given.clone()
    given[0, 0, 15], made[0, 15, 0] = 1, 2
    draw_grid_pairs(given, made, tmp_path / "a.png", "")
    pixels = _pixels(tmp_path / "a.png")
    first, second = (np.argwhere((pixels == ARC_PALETTE[c]).all(-1)).mean(0) for c in (1, 2))
    assert first[0] < second[0] and first[1] < second[1]


@pytest.mark.parametrize("num_samples, tiles", [(1, 1), (4, 4), (10, 10), (13, 10)])
def test_at_most_ten_samples_are_drawn(tmp_path, num_samples, tiles):
    given = torch.full((num_samples, 16, 16), 3)
    draw_grid_pairs(given, torch.zeros_like(given), tmp_path / "a.png", "")
    assert _area(_pixels(tmp_path / "a.png"), ARC_PALETTE[3]) == tiles * 256 * 49


@pytest.mark.parametrize("side", [1, 5, 16, 30, 64])
def test_grids_of_any_side_and_titles_of_any_length_are_drawn(tmp_path, side):
    draw_grid_pairs(
        _grids(3, side), _grids(3, side, seed=1), tmp_path / "a.png", "a long title " * 40 + "\n日本"
    )
    assert _pixels(tmp_path / "a.png").shape[1] < 1600


def test_title_labels_and_captions_are_inked(tmp_path):
    blank = torch.zeros(1, 16, 16, dtype=torch.int64)
    draw_grid_pairs(blank, blank, tmp_path / "none.png", "")
    draw_grid_pairs(blank, blank, tmp_path / "title.png", "epoch 12")
    none, titled = (_pixels(tmp_path / name) for name in ("none.png", "title.png"))
    assert (none[:36] == 255).all() and (titled[:36] < 100).any()
    assert (none[40:57] < 200).any(), "labels above the grids"
    assert (none[-28:] < 100).any(), "captions below them"


def test_captions_count_cells_and_never_round_up_to_perfect():
    one = np.zeros((16, 16), np.int64)
    one[0, :10] = 1
    other = one.copy()
    other[0, 0] = 2
    assert _caption(one, one) == "accuracy 1.00   foreground 1.00"
    assert _caption(one, other) == "accuracy 0.99   foreground 0.90"
    assert _caption(np.zeros_like(one), one) == "accuracy 0.96   foreground none"


@pytest.mark.parametrize(
    "given, made, message",
    [
        (_grids(0), _grids(0), "twice"),
        (_grids(2), _grids(3), "twice"),
        (_grids(2)[0], _grids(2)[0], "twice"),
        (_grids(2), _grids(2) + 1, "0 to 9"),
        (_grids(2) - 1, _grids(2), "0 to 9"),
    ],
)
def test_what_is_no_pair_of_grids_is_refused_and_nothing_is_written(tmp_path, given, made, message):
    with pytest.raises(ValueError, match=message):
        draw_grid_pairs(given, made, tmp_path / "a.png", "")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_meets_a_torn_picture(tmp_path):
    path = tmp_path / "a.png"
    draw_grid_pairs(_grids(), _grids(), path, "0")
    done = threading.Event()

    def write():
        for epoch in range(12):
            draw_grid_pairs(_grids(seed=epoch), _grids(), path, str(epoch))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        _pixels(path)  # raises on a file that is cut off
        reads += 1
        time.sleep(0.001)
    writer.join()
    assert reads > 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_former_picture_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    draw_grid_pairs(_grids(), _grids(), path, "")
    before = path.read_bytes()

    def fill_the_disk(self, file, **_):
        file.write_bytes(b"\x89PNG torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        draw_grid_pairs(_grids(seed=1), _grids(), path, "")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_takes_a_few_tens_of_milliseconds_at_most(tmp_path):
    grids = _grids()
    draw_grid_pairs(grids, grids, tmp_path / "a.png", "warm")
    times = []
    for _ in range(5):
        start = time.process_time()
        draw_grid_pairs(grids, grids, tmp_path / "a.png", "timed")
        times.append(time.process_time() - start)
    assert min(times) < 0.1  # measured: 0.016 s; processor time, and room for slower machines

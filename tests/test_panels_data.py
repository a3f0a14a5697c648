"""Pages of panels are arranged, hashed, averaged and masked; files are checked, synthetic pages seeded."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.errors import BadData
from trainables.panels import PANELS
from trainables.panels_data import (
    COLOURS,
    MOST_PANELS,
    SHAPES,
    arranged,
    panel_file,
    synthetic_rows,
    text_counts,
)

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "panels" / "mimi_eunice.npz"
SETTINGS = {name: setting.default for name, setting in PANELS.data_settings.items()}
EASY = {"side": 16, "seed": 0, "twins": 0.3, "jitter": 1.0}


def _rows(**changes: Any) -> dict[str, np.ndarray]:
    """Five strips of 2, 3, 1, 2, 2 panels, rows shuffled; the first three train."""
    strip = np.array([7, 9, 7, 9, 8, 9, 3, 3, 5, 5])
    draw = np.random.default_rng(0)
    rows = {
        "images": draw.integers(0, 256, (10, 24, 32, 3), dtype=np.uint8),
        "strip": strip,
        "panel": np.array([5, 2, 0, 0, 0, 1, 0, 1, 1, 0]),
        "comp": draw.normal(3, 2, (10, 7)).astype(np.float32),
        "text": np.array(["a cat", "", "Dog!", "the end", "x", "y", "cat", "owl", "dog", "two"]),
        "split": np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
    }
    return {name: values for name, values in {**rows, **changes}.items() if values is not None}


def _file(path: Path, **changes: Any) -> Path:
    np.savez_compressed(path / "pages.npz", **_rows(**changes))
    return path / "pages.npz"


# ---- arranging


def test_panels_of_a_strip_become_a_page_in_the_order_of_their_places(tmp_path: Path):
    rows, found = panel_file(_file(tmp_path))
    data = arranged("here", rows, side=16, buckets=32)
    train = data.splits["train"]
    assert not found and not data.warnings
    assert [data.size(split) for split in ("train", "val", "test")] == [3, 1, 1]
    assert data.facts == {"panels": 3, "side": 16, "buckets": 32}
    assert train["panel_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]], "strips 7, 8, 9"
    places = [[2, 0], [4], [3, 5, 1]]
    for page, wanted in enumerate(places):
        for place, row in enumerate(wanted):
            counts = text_counts([str(rows["text"][row])], 32)[0]
            assert train["text"][page, place].tolist() == counts.tolist()
            assert bool(train["has_text"][page, place]) == (rows["text"][row] != "")
    pages = torch.cat([data.splits[split]["page"] for split in data.splits])
    assert len(pages.unique()) == 5, "no two pages of any split share a number"


def test_padding_holds_nothing(tmp_path: Path):
    rows, _ = panel_file(_file(tmp_path))
    train = arranged("here", rows, side=16, buckets=32).splits["train"]
    padding = ~train["panel_mask"]
    assert padding.any()
    for name in ("image", "text", "layout", "has_image", "has_text"):
        assert not train[name][padding].any(), name


def test_images_are_averaged_over_the_area_of_each_pixel():
    images = np.zeros((3, 32, 64, 3), np.uint8)
    images[1, :2, :4, 0] = 200
    images[2] = 7
    changes = {"images": images, "strip": np.array([0, 0, 1]), "panel": np.array([0, 1, 0])}
    rows = {name: values[:3] for name, values in _rows().items()} | changes
    rows |= {"split": np.zeros(3, int), "has_text": np.ones(3, bool), "has_image": np.ones(3, bool)}
    rows = {name: np.concatenate([values] * 3) for name, values in rows.items()}
    rows["strip"] += np.repeat([0, 10, 20], 3)
    rows["split"] = np.repeat([0, 1, 2], 3)
    image = arranged("here", rows, side=16, buckets=16).splits["train"]["image"]
    assert (
        image[0, 1, 0, 0].tolist() == [200, 0, 0]
        and not image[0, 1, 1:].any()
        and not image[0, 1, 0, 1:].any()
    )
    assert (image[1, 0] == 7).all() and not image[0, 0].any()


def test_layouts_are_standardised_by_the_training_panels_alone(tmp_path: Path):
    comp = _rows()["comp"].astype(np.float64)
    comp[:, 3] = 0.1 + 1e-9 * np.arange(10)  # rounding, not layout
    comp[6:, 0] += 100
    rows, _ = panel_file(_file(tmp_path, comp=comp))
    splits = arranged("here", rows, side=16, buckets=16).splits
    trained = splits["train"]["layout"][splits["train"]["panel_mask"]]
    np.testing.assert_allclose(trained.mean(0), np.zeros(7), atol=1e-6)
    np.testing.assert_allclose(trained.std(0, correction=0), [1, 1, 1, 0, 1, 1, 1], atol=1e-6)
    expected = (comp[6, 0] - comp[:6, 0].mean()) / comp[:6, 0].std()
    assert splits["val"]["layout"][0, 0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_an_image_that_does_not_count_is_not_even_stored(tmp_path: Path):
    there = np.array([False, *[True] * 9])
    rows, _ = panel_file(_file(tmp_path, has_image=there))
    train = arranged("here", rows, side=16, buckets=16).splits["train"]
    assert train["has_image"].sum() == 5 and not train["image"][~train["has_image"]].any()


# ---- texts


def test_a_text_is_the_count_of_its_words_and_trigrams():
    buckets = 65_536
    tokens = ["=big", "<bi", "big", "ig>", "=cat", "<ca", "cat", "at>"]
    found = text_counts(["Big, big CAT!"], buckets)[0]
    expected = np.zeros(buckets, int)
    for token in (*tokens[:4], *tokens):
        expected[zlib.crc32(token.encode()) % buckets] += 1
    assert found.tolist() == expected.tolist()


def test_texts_without_a_word_are_nothing_and_long_ones_do_not_overflow():
    assert not text_counts(["", "... !?"], 16).any()
    assert text_counts(["a " * 300], 16).max() == 255
    assert text_counts(["été 東京"], 64).sum() == 2 + 3 + 2


# ---- files


def test_fields_that_a_file_may_omit_have_their_documented_values(tmp_path: Path):
    rows, found = panel_file(_file(tmp_path, comp=None))
    assert not rows["comp"].any() and rows["has_image"].all() and not found
    assert rows["has_text"].tolist() == [text != "" for text in _rows()["text"]]


def test_a_panel_that_claims_an_empty_text_has_none_and_the_user_is_told(tmp_path: Path):
    claims = np.ones(10, bool)
    claims[0] = False
    rows, found = panel_file(_file(tmp_path, has_text=claims))
    assert rows["has_text"].sum() == 8 and not rows["has_text"][0]
    assert len(found) == 1 and "1 panels have 'has_text' but an empty 'text'" in found[0]


def test_panels_with_nothing_to_show_are_counted_nowhere_and_the_user_is_told(tmp_path: Path):
    images = np.array([True, False, *[True] * 8])
    rows, found = panel_file(_file(tmp_path, has_image=images))
    assert "1 panels have neither image nor text" in found[0]
    data = arranged("here", rows, side=16, buckets=16, warnings=found)
    assert data.warnings == found
    counts = PANELS.label_counts(data)
    assert counts["panels"]["(neither)"] == [1, 0, 0]
    assert counts["panels"]["image alone"] == [0, 0, 0] and counts["panels"]["image and text"] == [5, 2, 2]
    assert counts["pages"] == {"1 panel": [1, 0, 0], "2 panels": [1, 1, 1], "3 panels": [1, 0, 0]}


def test_without_split_and_group_the_strips_are_hashed_whole(tmp_path: Path):
    strip = np.repeat(np.arange(60), 2)
    big = {name: np.resize(values, (120, *values.shape[1:])) for name, values in _rows().items()}
    big |= {"strip": strip, "panel": np.arange(120) % 2}
    rows, _ = panel_file(_file(tmp_path, **{**big, "split": None}))
    assert sorted(set(rows["split"])) == [0, 1, 2]
    assert (rows["split"][::2] == rows["split"][1::2]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panel": np.array([5, 2, 5, 0, 0, 1, 0, 1, 1, 0])}, r"'strip' 7 has 'panel' 5 in rows 0 and 2"),
        ({"split": np.array([0, 0, 1, 0, 0, 0, 1, 1, 2, 2])}, r"'strip' 7 is torn between train and val"),
        ({"split": np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])}, r"no test rows"),
        ({"images": np.zeros((10, 24, 32), np.uint8)}, r"'images' has the shape \[10, 24, 32\]"),
        ({"images": np.zeros((10, 4, 4, 3), np.uint8)}, r"'images' has the shape \[10, 4, 4, 3\]"),
        ({"images": np.full((10, 8, 8, 3), 256)}, r"'images' row 0 holds 256"),
        ({"comp": np.zeros((10, 6), np.float32)}, r"'comp' has the shape \[10, 6\]"),
        ({"comp": np.full((10, 7), np.nan)}, r"'comp' row 0 holds nan"),
        ({"text": np.arange(10)}, r"'text' is int64, but must be text"),
        ({"strip": np.arange(9)}, r"9 on axis N"),
        ({"strip": None}, r"has no field 'strip'"),
    ],
)
def test_a_file_that_is_not_so_is_refused_with_place_and_finding(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(BadData, match=message):
        panel_file(_file(tmp_path, **changes))


def test_a_page_that_is_too_long_to_pad_all_others_to_is_refused(tmp_path: Path):
    count = MOST_PANELS + 1
    long = {name: np.resize(values, (count, *values.shape[1:])) for name, values in _rows().items()}
    long |= {"strip": np.zeros(count, int), "panel": np.arange(count)}
    with pytest.raises(BadData, match=rf"'strip' 0 has {count} panels, at most {MOST_PANELS}"):
        panel_file(_file(tmp_path, **long))


def test_a_missing_path_is_refused():
    with pytest.raises(BadData, match=r"data\.path is not set"):
        PANELS.load({**SETTINGS, "source": "file", "path": None})


def test_pages_of_single_panels_are_refused_and_few_texts_are_told(tmp_path: Path):
    rows, _ = panel_file(_file(tmp_path, strip=np.arange(10), panel=np.zeros(10, int)))
    with pytest.raises(BadData, match=r"no train page has two panels"):
        arranged("here", rows, side=16, buckets=16)
    rows, _ = panel_file(_file(tmp_path, text=np.array([""] * 10)))
    found = arranged("here", rows, side=16, buckets=16).warnings
    assert any("fewer than two train panels have image and text" in warning for warning in found)


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample file is not part of the repository")
def test_the_sample_file_has_507_strips_of_three_panels():
    data = PANELS.load({**SETTINGS, "source": "file", "path": str(SAMPLE)})
    assert [data.size(split) for split in ("train", "val", "test")] == [383, 74, 50]
    counts = PANELS.label_counts(data)
    assert counts["pages"]["3 panels"] == [383, 74, 50]
    assert counts["panels"]["image and text"][1] == 206, "the candidates of image-text recall"
    assert PANELS.chance(data.facts, {}) == pytest.approx((2 / 221 + 1 / 206) / 2)


# ---- synthetic pages


def test_the_same_seed_gives_the_same_pages_and_another_seed_others():
    first, again, other = (synthetic_rows(32, **{**EASY, "seed": seed}) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["text"][:10], other["text"][:10])


def test_synthetic_splits_have_their_sizes_and_training_pages_do_not_depend_on_validation():
    rows = synthetic_rows(64, **EASY)
    pages = [len(np.unique(rows["strip"][rows["split"] == split])) for split in range(3)]
    assert pages == [64, 8, 8]
    assert set(rows["strip"][rows["split"] == 0]).isdisjoint(rows["strip"][rows["split"] == 1])


def test_a_synthetic_text_names_what_the_image_shows():
    """The pixel in the middle of each third: where it has an object's colour, the text says so there."""
    rows = synthetic_rows(400, **{**EASY, "side": 48, "jitter": 0.0})
    checked = 0
    for image, text in zip(rows["images"], rows["text"], strict=True):
        if not text or not image.any():
            continue
        assert text.split(" in the ")[1].count(",") == 1
        for said in text.split(": ")[1].split(", "):
            size, colour, shape, row, column = said.split()
            assert shape in SHAPES
            if shape == "ring" or size == "small":
                continue  # a hole in its middle, or smaller than it is shifted
            y, x = ("top", "middle", "bottom").index(row), ("left", "centre", "right").index(column)
            near = image[16 * y + 4 : 16 * y + 12, 16 * x + 4 : 16 * x + 12].reshape(-1, 3)
            checked += 1
            assert (near == COLOURS[colour]).all(1).any(), said
    assert checked > 200


def test_twins_share_place_and_style_but_not_the_hero():
    rows = synthetic_rows(200, **{**EASY, "twins": 1.0, "jitter": 0.0})
    train = {}
    for strip, text in zip(rows["strip"], rows["text"], strict=True):
        if text and strip < 200:
            train[strip] = text.split(":")[0].split(" in the ")
    pairs = [(train[i], train[i + 1]) for i in range(0, 200, 2) if i in train and i + 1 in train]
    assert len(pairs) > 80 and all(one[1] == other[1] for one, other in pairs)
    assert np.mean([one[0] != other[0] for one, other in pairs]) > 0.8
    single = synthetic_rows(200, **{**EASY, "twins": 0.0})
    assert not np.array_equal(single["text"], rows["text"])


def test_synthetic_layouts_give_no_page_away():
    rows = synthetic_rows(100, **EASY)
    sizes = np.bincount(rows["strip"])[rows["strip"]]
    for size in range(1, 5):
        assert len(np.unique(rows["comp"][sizes == size], axis=0)) == size


def test_some_panels_miss_an_image_or_a_text_and_none_misses_both():
    rows = synthetic_rows(400, **EASY)
    assert 0.03 < (~rows["has_image"]).mean() < 0.09 and 0.04 < (~rows["has_text"]).mean() < 0.12
    assert (rows["has_image"] | rows["has_text"]).all()
    assert not rows["images"][~rows["has_image"]].any() and (rows["text"][~rows["has_text"]] == "").all()


def test_synthetic_rows_written_to_a_file_load_as_they_were_generated(tmp_path: Path):
    settings = {**SETTINGS, "size": 32, "image_side": 16, "text_buckets": 64, "path": None}
    direct = PANELS.load({**settings, "source": "synthetic"})
    rows = synthetic_rows(32, **EASY)
    np.savez(tmp_path / "pages.npz", **{**rows, "split": np.array(["train", "val", "test"])[rows["split"]]})
    read = PANELS.load({**settings, "source": "file", "path": str(tmp_path / "pages.npz")})
    for split, batch in direct.splits.items():
        for name, tensor in batch.items():
            assert torch.equal(tensor, read.splits[split][name]), (split, name)
    assert direct.facts == read.facts

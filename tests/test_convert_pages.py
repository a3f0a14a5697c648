"""Page images with a transcript become panels that the family panels reads."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.cli import main
from trainables.convert.pages import page_arrays
from trainables.data import split_by_group
from trainables.errors import BadData

RED, GREEN, BLUE = (200, 0, 0), (0, 150, 0), (0, 0, 100)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder "comic" with the page "one": 300 x 100 pixels, three columns of red, green and blue."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "comic").mkdir()
    striped().save("comic/one.png")
    return tmp_path / "comic"


def striped() -> Image.Image:
    pixels = np.zeros((100, 300, 3), np.uint8)
    for number, colour in enumerate((RED, GREEN, BLUE)):
        pixels[:, 100 * number : 100 * (number + 1)] = colour
    return Image.fromarray(pixels)


def transcript(folder: Path, *rows: dict) -> None:
    (folder / "transcript.json").write_text(json.dumps(rows))


def row(panel: int, box: tuple[float, ...] | None = None, text: str | None = None, **more: object) -> dict:
    boxed = {} if box is None else dict(zip("xywh", box, strict=True))
    return {"page": "one", "panel": panel, **boxed, **({} if text is None else {"text": text}), **more}


def test_boxes_are_cut_out_and_measured(folder: Path) -> None:
    first = row(0, (0, 0, 100, 100), " I  said:\n", speaker="A")
    again = row(0, (0, 0, 100, 100), "hello", speaker="B")
    transcript(folder, row(1, (100, 20, 200, 50)), first, again)
    arrays, notes = page_arrays(folder)
    assert arrays["strip"].tolist() == [0, 0] and arrays["panel"].tolist() == [0, 1]
    assert arrays["strip_ids"].tolist() == ["one"]
    assert arrays["text"].tolist() == ["I said: hello", ""] and arrays["has_text"].tolist() == [True, False]
    assert arrays["speakers"].tolist() == ["A B", ""]
    assert arrays["images"].shape == (2, 64, 64, 3) and arrays["images"].dtype == np.uint8
    assert (arrays["images"][0] == RED).all()
    # The second box is half green, half blue: its outer columns are pure.
    assert (arrays["images"][1, :, 0] == GREEN).all() and (arrays["images"][1, :, -1] == BLUE).all()
    # aspect, share of the page's area, centre, size, rank; the page has 300 x 100 pixels.
    expected = [[1, 1 / 3, 50 / 300, 0.5, 1 / 3, 1, 0], [4, 1 / 3, 200 / 300, 0.45, 2 / 3, 0.5, 1]]
    assert arrays["comp"] == pytest.approx(np.array(expected))
    assert arrays["comp"].shape[1] == len(arrays["comp_names"]) == 7
    assert arrays["split"].tolist() == split_by_group(["one", "one"])
    assert any("too few groups" in note for note in notes)


def test_pages_without_boxes_are_cut_into_columns(folder: Path) -> None:
    striped().save("comic/two.JPG", quality=95)
    transcript(folder, row(2, text="last"))
    arrays, _ = page_arrays(folder, columns=3)
    assert arrays["strip_ids"].tolist() == ["one", "two"]
    assert arrays["panel"].tolist() == [0, 1, 2, 0, 1, 2]
    assert arrays["text"].tolist() == ["", "", "last", "", "", ""]
    assert all(
        (image == colour).all() for image, colour in zip(arrays["images"], (RED, GREEN, BLUE), strict=False)
    )
    middle = arrays["images"][3:, 24:40, 24:40].astype(int) - np.array([RED, GREEN, BLUE])[:, None, None]
    assert np.abs(middle).max() <= 3  # JPEG is not exact
    assert arrays["comp"][1] == pytest.approx([1, 1 / 3, 0.5, 0.5, 1 / 3, 1, 0.5])


def test_a_csv_transcript_says_the_same_as_json(folder: Path) -> None:
    transcript(folder, row(0, (0, 0, 100, 100), "a, b", speaker="A"), row(1, (100, 0, 100.5, 100)))
    one = page_arrays(folder).arrays
    lines = 'page,panel,x,y,w,h,text,speaker\none,0,0,0,100,100,"a, b",A\none.png,1,100,0,100.5,100,,\n'
    Path("words.csv").write_text(lines, encoding="utf-8-sig")
    other = page_arrays(folder, transcript=Path("words.csv")).arrays
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name


def test_transparent_grey_and_indexed_pages_are_shown_on_white(folder: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save("comic/a.png")
    Image.new("L", (64, 64), 77).save("comic/b.png")
    Image.new("P", (64, 64), 0).save("comic/c.png", transparency=0)
    Image.new("1", (64, 64), 1).save("comic/d.png")
    transcript(folder, row(0))
    images = page_arrays(folder, columns=1).arrays["images"]
    assert [sorted(set(image.ravel().tolist())) for image in images[:4]] == [[255], [77], [255], [255]]


def test_pages_lie_whole_in_the_split_of_their_name_and_the_family_reads_them(folder: Path, capsys) -> None:
    names = [f"strip {number:03d}" for number in range(40)]
    for name in names:
        striped().save(folder / f"{name}.png")
    Path("comic/one.png").unlink()
    transcript(folder, *(row(n, text=f"words {n}", page=name) for name in names for n in range(3)))
    assert main(["data", "convert", "pages", "comic", "comic.npz", "--panels", "3"]) == 0
    assert "loss-search data check panels comic.npz" in capsys.readouterr().out
    with np.load("comic.npz") as arrays:
        assert arrays["split"].tolist() == [part for part in split_by_group(names) for _ in range(3)]
    panels = pytest.importorskip("trainables.panels").PANELS
    defaults = {name: setting.default for name, setting in panels.data_settings.items()}
    loaded = panels.load({"source": "file", "path": "comic.npz", **defaults})
    sizes = [loaded.size(name) for name in ("train", "val", "test")]
    assert sizes == [split_by_group(names).count(part) for part in range(3)]


def test_a_page_is_looked_up_and_never_opened_by_its_name(folder: Path) -> None:
    striped().save("outside.png")
    for name in ("../outside", "../outside.png", str(Path("outside.png").absolute()), "one/../one", ""):
        transcript(folder, row(0, (0, 0, 9, 9)), row(0, (0, 0, 9, 9), page=name))
        with pytest.raises(BadData, match=r"row 1: 'page' is .*holds no image of that name"):
            page_arrays(folder)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (8_000, "has 8000 x 8000 pixels; at most 50,000,000 are unpacked"),
        (12_000, "has 12000 x 12000 pixels; at most 50,000,000 are unpacked"),  # pillow warns
        (30_000, "is no readable PNG or JPEG (Image size (900000000 pixels) exceeds limit"),  # pillow refuses
    ],
)
def test_an_image_that_unpacks_to_too_much_is_refused_unread(folder: Path, side: int, message: str) -> None:
    Path("comic/one.png").write_bytes(bomb(side, side))
    transcript(folder, row(0))
    with pytest.raises(BadData) as caught:
        page_arrays(Path("comic"), columns=1)
    assert str(caught.value).startswith(f"comic/one.png: {message}")


def test_images_that_are_damaged_or_of_another_kind_are_refused(folder: Path) -> None:
    whole = Path("comic/one.png").read_bytes()
    transcript(folder, row(0))
    gif = io.BytesIO()
    striped().save(gif, "GIF")
    deep = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(deep, "PNG")
    for content, message in (
        (b"", "is no readable PNG or JPEG"),
        (whole[: len(whole) // 2], "is no readable PNG or JPEG"),
        (whole[:40] + b"?" * 40 + whole[80:], "is no readable PNG or JPEG"),
        (gif.getvalue(), "is no readable PNG or JPEG"),
        (bomb(10, 10), "is no readable PNG or JPEG"),
        (deep.getvalue(), "save it with 8 bits a colour"),
    ):
        Path("comic/one.png").write_bytes(content)
        with pytest.raises(BadData, match=f"one.png: .*{message}"):
            page_arrays(folder, columns=1)


BOX = (0, 0, 100, 100)
BAD = {  # what the message says: the rows of the transcript
    "transcript.json: has no rows": [],
    "row 0: found 3, but must be a mapping with 'page'": [3],
    "row 0: has no 'panel'; it has 'page'": [{"page": "one"}],
    "row 0: 'panel': found -1; allowed are 0 to 31": [row(-1)],
    "row 0: found 'txet', but a row has page, panel, x, y, w, h, text, speaker": [row(0, txet="a")],
    "row 0: has some of x, y, w, h; give all four or none": [row(0, x=3)],
    "row 0: 'x': found 'left', but must be a finite number": [row(0, ("left", 0, 1, 1))],
    "row 0: the box is x 250, y 0, w 100, h 100, but must lie within 300 x 100 pixels": [
        row(0, (250, 0, 100, 100))
    ],
    "row 0: the box is x 0, y 0, w 1, h 100, but": [row(0, (0, 0, 1, 100))],
    "row 1: panel 0 has another box in an earlier row": [row(0, BOX), row(0, (0, 0, 50, 50))],
    "row 1: panel 1 has no box; this page has boxes of panels 0": [row(0, BOX), row(1, text="a")],
    "row 0: 'text': found a list of 0, but must be text": [row(0, BOX, [])],
    "row 0: 'text': found '\\ud800', which holds half a character": [row(0, BOX, "\ud800")],
    "row 0: 'text': has 20,000 characters; at most 10,000 are taken": [row(0, BOX, "x" * 20_000)],
    "one.png: has no boxes in the transcript; cut it into columns with --panels": [row(0)],
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_transcript_is_refused_by_row(folder: Path, capsys, message: str) -> None:
    transcript(folder, *BAD[message])
    assert main(["data", "convert", "pages", "comic", "comic.npz"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not Path("comic.npz").exists()


def test_what_the_folder_lacks_or_has_twice_is_told(folder: Path) -> None:
    with pytest.raises(BadData, match=r"holds neither transcript.json nor .csv; name one with --transcript"):
        page_arrays(folder)
    transcript(folder, row(0, BOX))
    Path("comic/transcript.csv").write_text("page,panel\none,0\n")
    with pytest.raises(BadData, match=r"holds both transcript.json and transcript.csv"):
        page_arrays(folder)
    Path("comic/transcript.csv").unlink()
    striped().save("comic/two.png")
    with pytest.raises(BadData, match=r"two.png: is not in the transcript; .*--panels"):
        page_arrays(folder)
    striped().save("comic/two.jpg")
    with pytest.raises(BadData, match=r"two.jpg and two.png are one page's"):
        page_arrays(folder)
    with pytest.raises(BadData, match="is no folder"):
        page_arrays(folder / "one.png")
    Path("empty").mkdir()
    with pytest.raises(BadData, match="holds no page image"):
        page_arrays(Path("empty"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"side,panel\none,0\n", "words.csv:1: the head line has no page or no panel"),
        (b"page,panel,text\none,0,\xff\n", "words.csv: cannot be read as CSV in UTF-8"),
        (b'page,panel,text\none,0,"open\n', "words.csv: cannot be read as CSV in UTF-8"),
        (b"page,panel,text\none,0,a,b\n", "words.csv:2: found None"),
        (
            b"page,panel,text\none,first,a\n",
            "words.csv:2: 'panel': found 'first', but must be a finite number",
        ),
        (
            b"page,panel\none,0\ntwo,0\n",
            "words.csv:3: 'page' is 'two', but comic holds no image of that name",
        ),
    ],
)
def test_a_bad_csv_is_refused_by_line(folder: Path, lines: bytes, message: str) -> None:
    Path("words.csv").write_bytes(lines)
    with pytest.raises(BadData) as caught:
        page_arrays(Path("comic"), transcript=Path("words.csv"), columns=2)
    assert str(caught.value).startswith(message)

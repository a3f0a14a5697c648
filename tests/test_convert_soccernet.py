"""SoccerNet MVFoul annotations with clip features become a file that the family multitask reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from search.cli import main
from trainables.convert import write_npz
from trainables.convert.soccernet import soccernet_arrays
from trainables.errors import BadData


def action(number: int, part: str, clips: int, labels: tuple[str, str, str], match: str = "") -> dict:
    """One action as MVFoul writes it; `labels`: action class, offence, severity."""
    action_class, offence, severity = labels
    return {
        "UrlLocal": match or f"england_epl\\2014-2015\\game {part} {number}",
        "Offence": offence,
        "Contact": "With contact",
        "Bodypart": "Under body",
        "Upper body part": "",
        "Action class": action_class,
        "Severity": severity,
        "Multiple fouls": "",
        "Try to play": "Yes",
        "Touch ball": "No",
        "Handball": "No handball",
        "Handball offence": "",
        "Clips": [
            {
                "Url": f"Dataset/{part}/action_{number}/clip_{clip}",
                "Camera type": "Main camera center" if clip == 0 else "Close-up player or field referee",
                "Timestamp": 1259839,
                "Replay speed": 1.0 if clip == 0 else 4.0,
            }
            for clip in range(clips)
        ],
    }


LABELS = {  # action class, offence, severity -> action_class, severity, offence
    ("Standing tackling", "Offence", "3.0"): (1, 1, 1),
    ("Tackling", "Offence", "1.0"): (0, 0, 1),
    ("High leg", "Offence", "5.0"): (2, 2, 1),
    ("Holding", "No offence", ""): (3, -1, 0),
    ("Pushing", "No offence", "3.0"): (4, -1, 0),
    ("Elbowing", "Offence", "2.0"): (5, -1, 1),
    ("Challenge", "Between", "1.0"): (6, -1, -1),
    ("Dive", "", ""): (7, 0, 1),
    ("Dive", "Between", "4.0"): (7, 0, 1),
    ("Dive", "No offence", ""): (7, -1, 0),
    ("Dont know", "Offence", "4.0"): (-1, -1, 1),
    ("", "", ""): None,
    ("Dont know", "Between", "3.0"): None,
}
SETS = {"Train": "train", "Valid": "valid", "Test": "test"}


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """All cases of LABELS in train, two actions in valid and test; each clip's vector holds its number."""
    monkeypatch.chdir(tmp_path)
    two = [("Tackling", "Offence", "1.0"), ("Dive", "No offence", "")]
    vectors: dict[str, np.ndarray] = {}
    for part, labels in {"Train": list(LABELS), "Valid": two, "Test": two}.items():
        actions = {str(n): action(n, part, 2 + n % 3, each) for n, each in enumerate(labels)}
        content = {"Set": part, "Number of actions": str(len(actions)), "Actions": actions}
        Path("mvfoul", part).mkdir(parents=True)
        Path("mvfoul", part, "annotations.json").write_text(json.dumps(content))
        for n in range(len(labels)):
            for clip in range(2 + n % 3):
                name = f"{SETS[part]}/action_{n}/clip_{clip}"
                vectors[name] = np.array([len(vectors), n, clip], np.float32)
    np.savez("features.npz", **vectors)
    return vectors


def test_labels_follow_the_published_loader_and_doubtful_ones_are_missing(original) -> None:
    arrays, notes = soccernet_arrays(Path("mvfoul"), Path("features.npz"))
    train = arrays["split"] == 0
    expected = [labels for labels in LABELS.values() if labels is not None]
    found = zip(arrays["action_class"], arrays["severity"], arrays["offence"], strict=True)
    assert [labels for labels, here in zip(found, train, strict=True) if here] == expected
    assert notes == ["2 actions have no label and were left out"]
    assert np.bincount(arrays["split"]).tolist() == [11, 2, 2]
    assert arrays["action_class_names"][[0, 1, 7]].tolist() == ["tackling", "standing_tackling", "dive"]


def test_views_are_the_clips_in_their_order_and_absent_ones_are_masked(original) -> None:
    arrays, _ = soccernet_arrays(Path("mvfoul"), Path("features.npz"))
    row = int(np.flatnonzero(arrays["split"] == 0)[1])  # action 1 of train, with three clips
    assert arrays["views"].shape == (15, 4, 3)
    expected = [original[f"train/action_1/clip_{clip}"].tolist() for clip in range(3)] + [[0, 0, 0]]
    assert arrays["views"][row].tolist() == expected
    assert arrays["view_mask"][row].tolist() == [True, True, True, False]
    # Three of at most four clips, one main camera, two close-ups, speeds 1, 4 and 4.
    assert arrays["static"][row] == pytest.approx([3 / 4, 1 / 3, 2 / 3, 9 / 3 / 5])
    assert arrays["match_id"][row] == "england_epl/2014-2015/game Train 1"


def test_a_folder_of_vectors_gives_what_the_npz_file_gives(original) -> None:
    for name, vector in original.items():
        path = Path("features", f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vector)
    one = soccernet_arrays(Path("mvfoul"), Path("features.npz")).arrays
    other = soccernet_arrays(Path("mvfoul"), Path("features")).arrays
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name


def test_one_set_alone_is_split_by_match(original) -> None:
    arrays, notes = soccernet_arrays(Path("mvfoul/Train/annotations.json"), Path("features.npz"))
    from trainables.data import split_by_group

    assert arrays["split"].tolist() == split_by_group(arrays["match_id"].tolist())
    assert "the annotations are of one set: matches are hashed into train, val, test" in notes


def test_the_converted_file_is_read_by_the_family(original, capsys) -> None:
    assert main(["data", "convert", "soccernet", "mvfoul", "features.npz", "fouls.npz"]) == 0
    assert "loss-search data check multitask fouls.npz" in capsys.readouterr().out
    multitask = pytest.importorskip("trainables.multitask").MULTITASK
    defaults = {name: setting.default for name, setting in multitask.data_settings.items()}
    loaded = multitask.load({"source": "file", "path": "fouls.npz", **defaults})
    assert loaded.splits["train"]["views"].shape == (11, 4, 3)
    assert loaded.splits["train"]["severity"].tolist()[:4] == [1, 0, 2, -1]
    assert multitask.label_counts(loaded)["offence"]["offence"] == [7, 1, 1]


def test_what_exists_is_replaced_on_demand_only_and_never_half(original, capsys) -> None:
    command = ["data", "convert", "soccernet", "mvfoul", "features.npz", "fouls.npz"]
    Path("fouls.npz").write_text("mine")
    assert main(command) == 2
    assert "give --force to replace it" in capsys.readouterr().err
    assert Path("fouls.npz").read_text() == "mine"
    Path("mvfoul/Test/annotations.json").write_text("[")
    assert main([*command, "--force"]) == 2
    assert Path("fouls.npz").read_text() == "mine"
    Path("mvfoul/Test/annotations.json").unlink()
    assert main([*command, "--force"]) == 0
    assert np.load("fouls.npz")["view_mask"].shape == (13, 4)
    assert not list(Path().glob(".*.tmp"))


def test_a_full_disk_leaves_the_former_file_and_no_other(original, capsys, monkeypatch) -> None:
    Path("fouls.npz").write_text("mine")

    def full(file, **arrays) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device", "fouls.npz")

    monkeypatch.setattr(np, "savez_compressed", full)
    command = ["data", "convert", "soccernet", "mvfoul", "features.npz", "fouls.npz", "--force"]
    assert main(command) == 1
    assert "no space left" in capsys.readouterr().err
    assert Path("fouls.npz").read_text() == "mine" and not list(Path().glob(".*.tmp"))


def test_what_the_system_does_not_let_us_read_or_write_ends_with_2(original, capsys, monkeypatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "mvfoul")

    command = ["data", "convert", "soccernet", "mvfoul", "features.npz"]
    assert main([*command, f"{'x' * 300}.npz"]) == 2
    assert "cannot be written (File name too long)" in capsys.readouterr().err
    monkeypatch.setattr("trainables.convert.soccernet.soccernet_arrays", denied)
    assert main([*command, "fouls.npz"]) == 2
    assert capsys.readouterr().err == "mvfoul: cannot be read (Permission denied)\n"


def test_files_larger_than_any_need_are_refused_unread(original, monkeypatch) -> None:
    monkeypatch.setattr("trainables.convert.soccernet.MOST_BYTES", 100)
    with pytest.raises(BadData, match=r"annotations.json: has [\d,]+ bytes; at most 100 are read"):
        soccernet_arrays(Path("mvfoul"), Path("features.npz"))


def test_arrays_that_no_family_would_read_again_are_not_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("trainables.convert.LIMIT_BYTES", 39)
    write_npz({"x": np.zeros(9, np.float32)}, tmp_path / "a.npz")
    with pytest.raises(BadData, match=r"'x' would take 40 bytes \(shape \[10\], float32\); at most 39"):
        write_npz({"x": np.zeros(10, np.float32)}, tmp_path / "b.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["mvfoul", "features.npz", "fouls.txt"], "OUT fouls.txt: must end with .npz"),
        (["mvfoul", "features.npz", "absent/fouls.npz"], "is no directory"),
        (["mvfoul", "features.npz", "features.npz"], "is also the input"),
        (["absent", "features.npz", "fouls.npz"], "absent: does not exist"),
        (["x" * 300, "features.npz", "fouls.npz"], "x: does not exist"),
        (["features.npz", "features.npz", "fouls.npz"], "features.npz: is no JSON file"),
        (["mvfoul", "absent.npz", "fouls.npz"], "absent.npz: does not exist"),
        ([".", "features.npz", "fouls.npz"], "holds no annotations.json"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_message(original, capsys, arguments, word) -> None:
    assert main(["data", "convert", "soccernet", *arguments]) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.err.count("\n") == 1
    assert not Path("fouls.npz").exists()


def _changed(**changes: object) -> dict:
    return {**action(0, "Train", 2, ("Tackling", "Offence", "1.0")), **changes}


TRAVERSAL = [{"Url": "../../../etc/passwd"}]
BAD = {  # what the message says: the file's content
    "found a list of 0, but must be a mapping with 'Set'": [],
    "'Set' is 'Chall', but must be Train, Valid or Test; the challenge set has no labels": {"Set": "Chall"},
    "has no 'Actions'; it has 'Set'": {"Set": "Train"},
    "no action has a label": {"Set": "Train", "Actions": {}},
    "'Actions' is a list of 1": {"Set": "Train", "Actions": [1]},
    "action '0': 'Action class' is 'Kick', but must be one of 'Tackling'": _changed(
        **{"Action class": "Kick"}
    ),
    "action '0': 'Severity' is '6.0', but must be one of": _changed(Severity="6.0"),
    "action '0': 'Clips' is a list of 0, but must be a list of 1 to 16 clips": _changed(Clips=[]),
    "must end with action_<number>/clip_<number>": _changed(Clips=TRAVERSAL),
    "'Replay speed': found 'nan', but must be a finite number": _changed(
        Clips=[{"Url": "action_0/clip_0", "Replay speed": "nan"}]
    ),
    "has no field 'train/action_99/clip_0'": _changed(Clips=[{"Url": "../../action_99/clip_0"}]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_annotations_are_refused_by_place(original, message: str) -> None:
    content = BAD[message]
    if isinstance(content, dict) and "Clips" in content:
        content = {"Set": "Train", "Actions": {"0": content}}
    Path("bad.json").write_text(json.dumps(content))
    with pytest.raises(BadData) as caught:
        soccernet_arrays(Path("bad.json"), Path("features.npz"))
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_annotations_nested_without_end_are_refused(original) -> None:
    Path("deep.json").write_text("[" * 200_000)
    with pytest.raises(BadData, match="deep.json: is no JSON file"):
        soccernet_arrays(Path("deep.json"), Path("features.npz"))


def test_bad_vectors_are_refused_by_file(original) -> None:
    folder = Path("features")
    for name, vector in original.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vector)
    victim = folder / "train/action_0/clip_1.npy"
    for vector, message in (
        (np.zeros(4, np.float32), "has 4 numbers, test/action_0/clip_0.npy has 3"),
        (np.zeros((1, 3), np.float32), "must be one vector of floats"),
        (np.array([1, np.inf, 0]), "holds inf"),
        (np.array([1, 1e39, 0]), "holds inf"),  # as float32
        (np.array([1, 2, 3]), "must be one vector of floats"),
        (np.array([{}, {}, {}], object), "is no array of numbers"),
    ):
        np.save(victim, vector)
        with pytest.raises(BadData, match=message):
            soccernet_arrays(Path("mvfoul"), folder)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (90000000000,), }\n"
    victim.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12))
    with pytest.raises(BadData, match="is no array of numbers"):
        soccernet_arrays(Path("mvfoul"), folder)
    np.savez("large.npz", **{**original, "train/action_0/clip_1": np.array([1, 1e39, 0])})
    with pytest.raises(BadData, match=r"'train/action_0/clip_1' row 1 holds 1e\+39"):
        soccernet_arrays(Path("mvfoul"), Path("large.npz"))
    victim.unlink()
    with pytest.raises(BadData, match=r"clip_1.npy: cannot be read .*every clip needs its vector"):
        soccernet_arrays(Path("mvfoul"), folder)

"""SoccerNet MVFoul: annotated fouls from several cameras, with features of the clips, for `multitask`.

The annotations (Held et al. 2023, "VARS: Video Assistant Referee System", and github.com/SoccerNet/sn-mvfoul)
come as one `annotations.json` a split:

    {"Set": "Train", "Number of actions": 2916, "Actions": {"0": {
        "UrlLocal": "england_epl\\\\2014-2015\\\\...", "Action class": "Tackling", "Offence": "Offence",
        "Severity": "3.0", ..., "Clips": [{"Url": "Dataset/Train/action_0/clip_0",
                                           "Camera type": "Main camera center", "Replay speed": 1.0}, ...]}}}

The videos are turned into vectors elsewhere, all of one length G. The vector of a clip is called

    <set>/action_<n>/clip_<m>        set: train, valid or test; n and m: as at the end of the clip's Url

and is either an array of that name in one npz file, or the file `<set>/action_<n>/clip_<m>.npy` in a folder.

Labels follow `label2vectormerge` of sn-mvfoul: eight action classes in its order; offence or none; no card,
yellow or red from severity 1, 3 and 5; a dive is an offence and without card unless it says otherwise.
Where it leaves an action out for want of one label (doubtful offence, severity 2 and 4, "Dont know"), here
that label alone is missing (-1), and an action without any label is left out. Where it makes one task of
offence and severity, here they are two, and the severity of what is no offence is missing.

What annotators say about contact, body part, handball and intention is not made a feature: people judged it
from the same clips as the labels, and it is not there for a new clip.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.convert import Converted, entry_of, hashed_split, number_of, read_json, sayable, text_of
from trainables.data import LIMIT_BYTES, SPLITS, Field, checked_arrays
from trainables.errors import BadData

__all__ = ["soccernet_arrays"]

MOST_BYTES = 256 * 2**20  # of an annotations.json; the published ones have about 6 MB
SETS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
SPLIT_OF_SET = {"train": 0, "valid": 1, "test": 2}
ACTION_CLASSES = (
    "Tackling", "Standing tackling", "High leg", "Holding", "Pushing", "Elbowing", "Challenge", "Dive",
)  # fmt: skip
SEVERITIES = ("no_card", "yellow", "red")
OFFENCES = ("no_offence", "offence")
ACTION_WORDS = {**{name: number for number, name in enumerate(ACTION_CLASSES)}, "": -1, "Dont know": -1}
OFFENCE_WORDS = {"No offence": 0, "No Offence": 0, "Offence": 1, "Between": -1, "": -1}
SEVERITY_WORDS = {"1.0": 0, "2.0": -1, "3.0": 1, "4.0": -1, "5.0": 2, "": -1}
STATIC_NAMES = ("clips", "main_camera", "close_up", "replay_speed")
CLIP = re.compile(r"action_(\d{1,9})/clip_(\d{1,3})")
MOST_CLIPS = 16  # the published actions have 2 to 4


class Action(NamedTuple):
    """One annotated action: the labels (-1: missing), its match, and the names of its clips' vectors."""

    split: int
    match: str
    labels: tuple[int, int, int]  # action class, severity, offence
    static: list[float]
    clips: list[str]


def soccernet_arrays(annotations: Path, features: Path) -> Converted:
    """The arrays of `multitask` from annotations and one vector a clip.

    Args:
        annotations: one annotations.json, or a folder that holds it, or holds folders that hold one each.
        features: an npz file or a folder, see above.
    Returns:
        static f32[N, 4] (number of clips / 4, share of them from a main camera, share of close-ups, mean
        replay speed / 5), views f32[N, V, G] in the order of the clips with V the most clips of an action,
        view_mask, action_class, severity, offence, match_id (text), split (of the annotations; where they
        have one set alone, a hash of the match), and names.
    Raises:
        BadData: a file is not as described, or a clip has no vector.
    """
    actions: list[Action] = []
    left_out = 0
    files = _files(annotations)
    for path in files:
        found, unlabelled = _actions(path)
        actions += found
        left_out += unlabelled
    if not actions:
        raise BadData(f"{annotations}: no action has a label; the challenge set cannot be converted")
    vectors = _vectors(features, [clip for action in actions for clip in action.clips])
    views, mask = _views(actions, vectors)
    labels = np.array([action.labels for action in actions], np.int8)
    split = np.array([action.split for action in actions], np.int8)
    notes = [f"{left_out} actions have no label and were left out"] if left_out else []
    if len(set(split.tolist())) == 1:
        split, found = hashed_split(annotations, [action.match for action in actions])
        notes += [f"the annotations are of one set: matches are hashed into {', '.join(SPLITS)}", *found]
    arrays = {
        "static": np.array([action.static for action in actions], np.float32),
        "views": views,
        "view_mask": mask,
        "action_class": labels[:, 0],
        "severity": labels[:, 1],
        "offence": labels[:, 2],
        "match_id": np.array([action.match for action in actions]),
        "split": split,
        "static_names": np.array(STATIC_NAMES),
        "view_names": np.array([f"feature_{number}" for number in range(views.shape[-1])]),
        "action_class_names": np.array([name.lower().replace(" ", "_") for name in ACTION_CLASSES]),
        "severity_names": np.array(SEVERITIES),
        "offence_names": np.array(OFFENCES),
    }
    return Converted(arrays, notes)


def _files(annotations: Path) -> list[Path]:
    if not annotations.is_dir():
        return [annotations]
    files = sorted([*annotations.glob("annotations.json"), *annotations.glob("*/annotations.json")])
    if not files:
        raise BadData(f"{annotations}: holds no annotations.json, neither itself nor in a folder within")
    return files


def _actions(path: Path) -> tuple[list[Action], int]:
    """The actions of one file that have a label, and the number of those that have none."""
    content = read_json(path, MOST_BYTES)
    word = text_of(f"{path}: 'Set'", entry_of(str(path), content, "Set"))
    if word.lower() not in SETS:
        allowed = "Train, Valid or Test; the challenge set has no labels"
        raise BadData(f"{path}: 'Set' is {word!r}, but must be {allowed}")
    name = SETS[word.lower()]
    entries = entry_of(str(path), content, "Actions")
    if not isinstance(entries, dict):
        raise BadData(f"{path}: 'Actions' is {sayable(entries)}, but must be a mapping of actions by number")
    actions = [_action(f"{path}: action {number[:20]!r}", entry, name) for number, entry in entries.items()]
    kept = [action for action in actions if max(action.labels) >= 0]
    return kept, len(actions) - len(kept)


def _action(place: str, entry: Any, name: str) -> Action:
    action = _label(place, entry, "Action class", ACTION_WORDS)
    offence = _label(place, entry, "Offence", OFFENCE_WORDS)
    severity = _label(place, entry, "Severity", SEVERITY_WORDS)
    if action == ACTION_WORDS["Dive"]:
        offence = 1 if offence < 0 else offence
        severity = max(severity, 0)
    severity = severity if offence == 1 else -1
    clips = entry_of(place, entry, "Clips")
    if not isinstance(clips, list) or not 1 <= len(clips) <= MOST_CLIPS:
        raise BadData(f"{place}: 'Clips' is {sayable(clips)}, but must be a list of 1 to {MOST_CLIPS} clips")
    cameras = [text_of(f"{place}: 'Camera type'", entry_of(place, clip, "Camera type", "")) for clip in clips]
    speeds = [
        number_of(f"{place}: 'Replay speed'", entry_of(place, clip, "Replay speed", 1.0)) for clip in clips
    ]
    static = [
        len(clips) / 4,
        sum(camera.startswith("Main camera") for camera in cameras) / len(clips),
        sum(camera.startswith("Close-up") for camera in cameras) / len(clips),
        sum(speeds) / len(clips) / 5,
    ]
    match = text_of(f"{place}: 'UrlLocal'", entry_of(place, entry, "UrlLocal")).replace("\\", "/")
    keys = [_key(place, text_of(f"{place}: 'Url'", entry_of(place, clip, "Url")), name) for clip in clips]
    return Action(SPLIT_OF_SET[name], match, (action, severity, offence), static, keys)


def _label(place: str, entry: Any, key: str, words: dict[str, int]) -> int:
    word = text_of(f"{place}: {key!r}", entry_of(place, entry, key))
    if word not in words:
        raise BadData(
            f"{place}: {key!r} is {sayable(word)}, but must be one of {', '.join(map(repr, words))}"
        )
    return words[word]


def _key(place: str, url: str, name: str) -> str:
    """What the vector of a clip is called: made of known words and two numbers, so it can name a file."""
    found = CLIP.search(url.replace("\\", "/"))
    if found is None:
        raise BadData(f"{place}: 'Url' is {sayable(url)}, but must end with action_<number>/clip_<number>")
    return f"{name}/action_{int(found[1])}/clip_{int(found[2])}"


# ---- features


def _vectors(features: Path, clips: list[str]) -> dict[str, np.ndarray]:
    """The vector f[G] of each clip."""
    if not features.is_dir():
        most = float(np.finfo(np.float32).max)
        field = Field(("float",), ("G",), -most, most)
        return checked_arrays(features, wanted=dict.fromkeys(clips, field))
    vectors: dict[str, np.ndarray] = {}
    for clip in clips:
        vector = vectors[clip] = _vector(features / f"{clip}.npy")
        first = vectors[clips[0]]
        if len(vector) != len(first):
            raise BadData(
                f"{features}: {clip}.npy has {len(vector)} numbers, {clips[0]}.npy has {len(first)}"
            )
    return vectors


def _vector(path: Path) -> np.ndarray:
    try:
        # Mapped, not read: a header that lies about the size is refused before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadData(
            f"{path}: cannot be read ({error.strerror or error}); every clip needs its vector"
        ) from error
    except (ValueError, EOFError) as error:
        raise BadData(
            f"{path}: is no array of numbers ({str(error)[:100]}); write it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind != "f" or array.size == 0:
        found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise BadData(f"{path}: is {found}, but must be one vector of floats")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        vector = np.array(array, np.float32)
    if not np.isfinite(vector).all():
        raise BadData(f"{path}: holds {vector[~np.isfinite(vector)][0]}; allowed are finite numbers")
    return vector


def _views(actions: list[Action], vectors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """views f32[N, V, G], zero where there is no clip, and view_mask bool[N, V]."""
    most = max(len(action.clips) for action in actions)
    length = len(next(iter(vectors.values())))
    if len(actions) * most * length * 4 > LIMIT_BYTES:
        raise BadData(
            f"{len(actions)} actions of {most} clips with {length} numbers are too much for one file"
        )
    views = np.zeros((len(actions), most, length), np.float32)
    mask = np.zeros((len(actions), most), bool)
    for row, action in enumerate(actions):
        views[row, : len(action.clips)] = [vectors[clip] for clip in action.clips]
        mask[row, : len(action.clips)] = True
    return views, mask

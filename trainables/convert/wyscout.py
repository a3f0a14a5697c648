"""Wyscout match events: fouls and clean duels, with what went before them, for `multitask`.

Reads the files `events_<Competition>.json` of Pappalardo et al. 2019, "A public data set of spatio-temporal
match events in soccer competitions", Scientific Data 6:236: lists of

    {"eventName": "Foul", "subEventName": "Foul", "tags": [{"id": 1702}], "playerId": 25413,
     "teamId": 1609, "matchId": 2499719, "matchPeriod": "1H", "eventSec": 12.3, "id": 177959171,
     "positions": [{"x": 49, "y": 49}, ...]}

One example is a contest: a foul, or a duel after which nobody was fouled. x goes to the opponents' goal and y
across the pitch, both in [0, 1] and as the contesting player's team sees them.

    linked duel   of an event "Foul" of the kind "Foul": the same player's last duel in the 5 s before it.
    begin         of a contest: its linked duel, else itself. Features see what came before that alone.
    clean duel    defending, air or loose-ball duel with no foul in the same period within 5 s on either side.
                  Of each match those with the smallest CRC-32 of "match:id" are taken, `clean` a foul.
    views         the 5 events before the begin in its period, the nearest first, without duels of the 2 s
                  before it: the other player's half of a duel would tell what kind it is.
    action_class  kind of the linked duel (attacking, sliding, defending, air, loose ball; off_duel_foul
                  when there is none), or the sub-event of the other fouls.
    severity      no card, yellow (tag 1702), second yellow (1703), red (1701); -1 for a clean duel.
    offence       1 foul, 0 clean duel.

The score and what is known of players (role, age, ...) are not in these files and not among the features.
Penalty shoot-outs and events without a position are left out.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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

__all__ = ["wyscout_arrays"]

MOST_BYTES = 2 * 2**30  # of one file; the largest published one has 0.3 GB
FILE = re.compile(r"events_([\w \-]{1,40})\.json")
LINK_S, CLEAN_S, BLIND_S = 5.0, 5.0, 2.0
NUM_VIEWS, VIEW_S = 5, 30.0
PERIODS = ("1H", "2H", "E1", "E2")
KINDS = (
    "Pass", "Duel", "Others on the ball", "Interruption", "Foul", "Free Kick", "Shot", "Save attempt",
    "Offside", "Goalkeeper leaving line",
)  # fmt: skip
DUELS = {
    "Ground attacking duel": "attacking_foul",
    "Ground defending duel": "ground_duel",
    "Air duel": "air_duel",
    "Ground loose ball duel": "loose_ball_duel",
}
FOULS = {
    "Hand foul": "hand_foul",
    "Protest": "protest",
    "Out of game foul": "out_of_game_foul",
    "Late card foul": "late_card_foul",
    "Time lost foul": "time_lost_foul",
    "Simulation": "simulation",
    "Violent foul": "violent_foul",
}
ACTION_CLASSES = (
    "ground_duel", "sliding_tackle", "air_duel", "loose_ball_duel", "attacking_foul", "off_duel_foul",
    *FOULS.values(),
)  # fmt: skip
SEVERITIES = ("no_card", "yellow", "second_yellow", "red")
RED, YELLOW, SECOND_YELLOW = 1701, 1702, 1703
LOST, WON, SLIDING, ACCURATE, INACCURATE, COUNTER, DANGEROUS_LOSS, ASSIST = (
    701,
    703,
    1601,
    1801,
    1802,
    1901,
    2001,
    301,
)
STATIC_NAMES = (
    *(f"period_{period}" for period in PERIODS),
    "sec_over_2700", "x", "y", "abs_y_off_centre", "dist_own_goal", "dist_opp_goal", "own_box",
    "player_fouls_so_far", "player_already_carded", "team_fouls", "opp_fouls", "team_cards", "opp_cards",
    "since_last_foul",
)  # fmt: skip
VIEW_NAMES = (
    *(f"ev_{kind}" for kind in KINDS),
    "same_team", "x0", "y0", "x1", "y1", "dt", "accurate", "inaccurate", "duel_lost_won", "counter",
    "dangerous_loss_or_assist",
)  # fmt: skip
BOX_DEPTH, BOX_HALF_WIDTH = (
    16.5 / 105,
    20.15 / 68,
)  # of the penalty area, in shares of a pitch of 105 m x 68 m


class Event(NamedTuple):
    """One event; `place` is (x, y) at its start, `end` where it ended, in [0, 1], as its team sees them."""

    number: int  # Wyscout's id
    period: int  # index into PERIODS
    second: float  # since the period began
    kind: str
    sub: str
    team: int
    player: int
    place: tuple[float, float]
    end: tuple[float, float]
    tags: frozenset[int]


class Contest(NamedTuple):
    """One example: `event` is the foul or the clean duel, `begin` the index of the event where it began."""

    event: Event
    begin: int
    action_class: int
    severity: int
    offence: int


def wyscout_arrays(folder: Path, clean: float = 0.2) -> Converted:
    """The arrays of `multitask` from a folder of `events_<Competition>.json`.

    Args:
        clean: clean duels taken for each foul of a match, at least 0.
    Returns:
        static f32[N, 18 + competitions], views f32[N, 5, 21], view_mask, action_class (13), severity (4),
        offence (2), match_id, competition, split (a hash of the match), and names.
    Raises:
        BadData: a file is not as described, or there is no foul.
    """
    files = _files(folder)
    rows: list[tuple[list[float], np.ndarray, np.ndarray, Contest]] = []
    matches: list[int] = []
    competitions: list[int] = []
    left_out: Counter[str] = Counter()
    for competition, path in enumerate(files.values()):
        for match, events in _matches(path, left_out).items():
            for contest in _contests(match, events, clean):
                rows.append((_static(events, contest), *_views(events, contest), contest))
                matches.append(match)
                competitions.append(competition)
    fouls = sum(contest.offence for *_, contest in rows)
    if not fouls:
        raise BadData(f"{folder}: no file holds an event 'Foul'")
    split, notes = hashed_split(folder, matches)
    notes = [f"{count} events left out: {why}" for why, count in sorted(left_out.items())] + notes
    if fouls == len(rows):
        notes.append(
            f"no clean duels ({clean:g} a foul asked for; one lies {CLEAN_S:g} s away from every foul): "
            "every row is an offence, so that task has one class only"
        )
    one_hot = np.eye(len(files), dtype=np.float32)[competitions]
    arrays = {
        "static": np.concatenate([np.array([row[0] for row in rows], np.float32), one_hot], axis=1),
        "views": np.stack([row[1] for row in rows]),
        "view_mask": np.stack([row[2] for row in rows]),
        "action_class": np.array([row[3].action_class for row in rows], np.int8),
        "severity": np.array([row[3].severity for row in rows], np.int8),
        "offence": np.array([row[3].offence for row in rows], np.int8),
        "match_id": np.array(matches, np.int64),
        "competition": np.array(competitions, np.int8),
        "split": split,
        "static_names": np.array([*STATIC_NAMES, *(f"comp_{name}" for name in files)]),
        "view_names": np.array(VIEW_NAMES),
        "action_class_names": np.array(ACTION_CLASSES),
        "severity_names": np.array(SEVERITIES),
        "offence_names": np.array(["no_offence", "offence"]),
        "competition_names": np.array(list(files)),
    }
    return Converted(arrays, notes)


# ---- reading


def _files(folder: Path) -> dict[str, Path]:
    """Competition -> its file, by name."""
    if not folder.is_dir():
        raise BadData(f"{folder}: is no folder; give the one that holds events_<Competition>.json")
    found = {name[1]: path for path in sorted(folder.iterdir()) if (name := FILE.fullmatch(path.name))}
    if not found:
        raise BadData(f"{folder}: holds no events_<Competition>.json")
    if len(found) > 100:
        raise BadData(f"{folder}: holds {len(found)} files of events; at most 100 competitions are taken")
    return found


def _matches(path: Path, left_out: Counter[str]) -> dict[int, list[Event]]:
    """The events of each match in the order of time; equal times in the order of the file."""
    entries = read_json(path, MOST_BYTES)
    if not isinstance(entries, list):
        raise BadData(f"{path}: holds {sayable(entries)}, but must hold a list of events")
    matches: dict[int, list[Event]] = {}
    for number, entry in enumerate(entries):
        place = f"{path}: event {number}"
        period = entry_of(place, entry, "matchPeriod")
        positions = entry_of(place, entry, "positions")
        if period == "P":
            left_out["of a penalty shoot-out"] += 1
        elif not positions:
            left_out["without a position"] += 1
        else:
            event = _event(place, entry, period, positions)
            if event.kind not in KINDS:
                left_out[f"of the kind {event.kind[:40]!r}"] += 1
                continue
            matches.setdefault(whole_of(f"{place}: 'matchId'", entry_of(place, entry, "matchId")), []).append(
                event
            )
    for events in matches.values():
        events.sort(key=lambda event: (event.period, event.second))
    return matches


def _event(place: str, entry: dict[str, Any], period: Any, positions: Any) -> Event:
    if period not in PERIODS:
        raise BadData(
            f"{place}: 'matchPeriod' is {sayable(period)}, but must be one of {', '.join(PERIODS)}, P"
        )
    kind = text_of(f"{place}: 'eventName'", entry_of(place, entry, "eventName"))
    sub = text_of(f"{place}: 'subEventName'", entry_of(place, entry, "subEventName", ""))
    sub = sub.capitalize()  # the published files write "Violent Foul", but "Hand foul"
    if kind == "Duel" and sub not in DUELS or kind == "Foul" and sub not in ("Foul", *FOULS):
        allowed = ", ".join(DUELS if kind == "Duel" else ("Foul", *FOULS))
        raise BadData(f"{place}: 'subEventName' of a {kind} is {sayable(sub)}, but must be one of {allowed}")
    tags = entry_of(place, entry, "tags")
    if not isinstance(positions, list) or not isinstance(tags, list):
        raise BadData(
            f"{place}: 'positions' and 'tags' must be lists, found {sayable(positions)}, {sayable(tags)}"
        )
    points = [_point(place, point) for point in positions[:2]]
    return Event(
        number=whole_of(f"{place}: 'id'", entry_of(place, entry, "id")),
        period=PERIODS.index(period),
        second=number_of(f"{place}: 'eventSec'", entry_of(place, entry, "eventSec"), 0, 36_000),
        kind=kind,
        sub=sub,
        team=whole_of(f"{place}: 'teamId'", entry_of(place, entry, "teamId")),
        player=whole_of(f"{place}: 'playerId'", entry_of(place, entry, "playerId")),
        place=points[0],
        end=points[-1],
        tags=frozenset(whole_of(f"{place}: 'tags'", entry_of(f"{place}: 'tags'", tag, "id")) for tag in tags),
    )


def _point(place: str, point: Any) -> tuple[float, float]:
    """Per cent of the pitch as shares of it; what was noted just outside the lines lies on them."""
    x, y = (number_of(f"{place}: {axis!r}", entry_of(place, point, axis)) / 100 for axis in ("x", "y"))
    return min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)


# ---- contests


def _contests(match: int, events: list[Event], clean: float) -> Iterator[Contest]:
    """The fouls of one match in the order of time, then the clean duels that were drawn."""
    fouls = [(index, event) for index, event in enumerate(events) if event.kind == "Foul"]
    for index, foul in fouls:
        linked = _linked_duel(events, index) if foul.sub == "Foul" else None
        if foul.sub != "Foul":
            name = FOULS[foul.sub]
        else:
            name = "off_duel_foul" if linked is None else _duel_class(events[linked])
        begin = index if linked is None else linked
        yield Contest(foul, begin, ACTION_CLASSES.index(name), _severity(foul), 1)
    candidates = [
        (zlib.crc32(f"{match}:{event.number}".encode()), index)
        for index, event in enumerate(events)
        if event.kind == "Duel"
        and event.sub != "Ground attacking duel"
        and not any(
            foul.period == event.period and abs(foul.second - event.second) <= CLEAN_S for _, foul in fouls
        )
    ]
    drawn = sorted(candidates)[: math.floor(clean * len(fouls) + 0.5)]
    for index in sorted(index for _, index in drawn):
        name = _duel_class(events[index])
        yield Contest(events[index], index, ACTION_CLASSES.index(name), -1, 0)


def _linked_duel(events: list[Event], index: int) -> int | None:
    """Index of the same player's last duel in the 5 s before the foul at `index`."""
    foul = events[index]
    for earlier in range(index - 1, -1, -1):
        event = events[earlier]
        if event.period != foul.period or foul.second - event.second > LINK_S:
            return None
        if event.kind == "Duel" and event.player == foul.player:
            return earlier
    return None


def _duel_class(duel: Event) -> str:
    return "sliding_tackle" if SLIDING in duel.tags else DUELS[duel.sub]


def _severity(foul: Event) -> int:
    return next((rank for rank, tag in ((3, RED), (2, SECOND_YELLOW), (1, YELLOW)) if tag in foul.tags), 0)


# ---- features


def _static(events: list[Event], contest: Contest) -> list[float]:
    """What STATIC_NAMES lists. Counts are of fouls before the begin: of a player / 3, of a team / 12, of a
    team's cards / 3; time since the last foul of the period / 300 s, at most 1, and 1 without one.
    """
    event, begin = contest.event, events[contest.begin]
    x, y = event.place
    fouls = [earlier for earlier in events[: contest.begin] if earlier.kind == "Foul"]
    own = [foul for foul in fouls if foul.player == event.player]
    team = [foul for foul in fouls if foul.team == event.team]
    others = [foul for foul in fouls if foul.team != event.team]
    since = [begin.second - foul.second for foul in fouls if foul.period == begin.period]
    return [
        *(float(event.period == period) for period in range(len(PERIODS))),
        begin.second / 2700,
        x,
        y,
        2 * abs(y - 0.5),
        math.hypot(x, y - 0.5),
        math.hypot(1 - x, y - 0.5),
        float(x <= BOX_DEPTH and abs(y - 0.5) <= BOX_HALF_WIDTH),
        len(own) / 3,
        float(any(_severity(foul) for foul in own)),
        len(team) / 12,
        len(others) / 12,
        sum(_severity(foul) > 0 for foul in team) / 3,
        sum(_severity(foul) > 0 for foul in others) / 3,
        min(since[-1] / 300, 1.0) if since else 1.0,
    ]


def _views(events: list[Event], contest: Contest) -> tuple[np.ndarray, np.ndarray]:
    """views f32[5, 21] and view_mask bool[5]."""
    begin = events[contest.begin]
    views = np.zeros((NUM_VIEWS, len(VIEW_NAMES)), np.float32)
    seen = 0
    for event in reversed(events[: contest.begin]):
        if event.period != begin.period or seen == NUM_VIEWS:
            break
        if event.kind == "Duel" and begin.second - event.second <= BLIND_S:
            continue
        views[seen] = _view(event, begin.second, contest.event.team)
        seen += 1
    return views, np.arange(NUM_VIEWS) < seen


def _view(event: Event, second: float, team: int) -> list[float]:
    """What VIEW_NAMES lists; dt / 30 s, at most 1; a lost duel is -1, a won one 1."""
    same = event.team == team
    points = [*event.place, *event.end]
    tags = event.tags
    return [
        *(float(event.kind == kind) for kind in KINDS),
        float(same),
        *(points if same else [1 - value for value in points]),
        min((second - event.second) / VIEW_S, 1.0),
        float(ACCURATE in tags),
        float(INACCURATE in tags),
        float(WON in tags) - float(LOST in tags),
        float(COUNTER in tags),
        float(DANGEROUS_LOSS in tags or ASSIST in tags),
    ]

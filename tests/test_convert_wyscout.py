"""Wyscout events become contests whose features are known before they begin."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from search.cli import main
from trainables.convert.wyscout import wyscout_arrays
from trainables.data import split_by_group
from trainables.errors import BadData

HOME, AWAY = 1609, 1631


def event(second: float, kind: str, sub: str, team: int, player: int, *tags: int, **more: object) -> dict:
    """One event as the published files write it; at (30, 40) -> (50, 60) per cent unless `more` says else."""
    return {
        "eventId": 1,
        "subEventName": sub,
        "tags": [{"id": tag} for tag in tags],
        "playerId": player,
        "positions": [{"y": 40, "x": 30}, {"y": 60, "x": 50}],
        "matchId": 2499719,
        "eventName": kind,
        "teamId": team,
        "matchPeriod": "1H",
        "eventSec": second,
        "subEventId": 85,
        "id": round(second * 1000),
        **more,
    }


def duel(second: float, side: str, team: int, player: int, *tags: int, **more: object) -> dict:
    return event(second, "Duel", f"Ground {side} duel", team, player, *tags, **more)


# Player 7 (home) fouls 9 (away) at 104 s, in a duel that began at 103 s.
MATCH = [
    event(10, "Foul", "Hand foul", HOME, 7, 1702),
    event(60, "Foul", "Foul", AWAY, 9),
    event(95, "Pass", "Simple pass", AWAY, 9, 1801, 1901),
    event(97, "Shot", "Shot", HOME, 8, 1802, 301),
    duel(99, "attacking", AWAY, 9, 701, 1802),
    event(101.5, "Pass", "High pass", HOME, 8, 1801),
    duel(102, "loose ball", AWAY, 11, 703),
    duel(103, "attacking", AWAY, 9, 701),
    duel(103, "defending", HOME, 7, 1601, 703),
    event(103.5, "Others on the ball", "Touch", AWAY, 9, 2001),
    event(104, "Foul", "Foul", HOME, 7, 1702, positions=[{"x": 10, "y": 50}]),
    event(105, "Free Kick", "Free Kick", AWAY, 9),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wyscout").mkdir()
    return tmp_path / "wyscout"


def write(folder: Path, events: list, competition: str = "England") -> None:
    (folder / f"events_{competition}.json").write_text(json.dumps(events))


def row(arrays: dict, number: int) -> dict[str, float]:
    return dict(zip(arrays["static_names"].tolist(), arrays["static"][number].tolist(), strict=True))


def view(arrays: dict, number: int, place: int) -> dict[str, float]:
    values = arrays["views"][number, place].tolist()
    return dict(zip(arrays["view_names"].tolist(), values, strict=True))


def test_a_foul_is_described_by_what_came_before_its_duel(folder: Path) -> None:
    write(folder, MATCH)
    arrays, _ = wyscout_arrays(folder, clean=0.0)
    assert arrays["offence"].tolist() == [1, 1, 1]
    names = arrays["action_class_names"][arrays["action_class"]].tolist()
    assert names == ["hand_foul", "off_duel_foul", "sliding_tackle"]
    assert arrays["severity"].tolist() == [1, 0, 1]
    assert arrays["match_id"].tolist() == [2499719] * 3
    found = row(arrays, 2)
    expected = {
        "period_1H": 1,
        "sec_over_2700": 103 / 2700,
        "x": 0.1,
        "y": 0.5,
        "dist_own_goal": 0.1,
        "dist_opp_goal": 0.9,
        "own_box": 1,
        "player_fouls_so_far": 1 / 3,
        "player_already_carded": 1,
        "team_fouls": 1 / 12,
        "opp_fouls": 1 / 12,
        "team_cards": 1 / 3,
        "since_last_foul": 43 / 300,
        "comp_England": 1,
    }
    assert found == pytest.approx({**dict.fromkeys(found, 0.0), **expected})


def test_views_leave_out_the_duel_itself_and_all_that_tells_of_it(folder: Path) -> None:
    """Both halves of the duel at 103 s, the duel at 102 s and the touch after it are out; the pass is not."""
    write(folder, MATCH)
    arrays, _ = wyscout_arrays(folder, clean=0.0)
    assert arrays["view_mask"][2].tolist() == [True] * 5
    seconds = [103 - 30 * view(arrays, 2, place)["dt"] for place in range(4)]
    assert seconds == pytest.approx([101.5, 99, 97, 95], abs=1e-5)
    assert view(arrays, 2, 4)["dt"] == 1 and view(arrays, 2, 4)["ev_Foul"] == 1
    own, duel_lost = view(arrays, 2, 0), view(arrays, 2, 1)
    zeros = dict.fromkeys(own, 0.0)
    here = {"x0": 0.3, "y0": 0.4, "x1": 0.5, "y1": 0.6}
    other = {"x0": 0.7, "y0": 0.6, "x1": 0.5, "y1": 0.4}  # as the fouling team sees the other's (30, 40)
    more = {"ev_Pass": 1, "same_team": 1, "accurate": 1, "dt": 1.5 / 30}
    assert own == pytest.approx({**zeros, **here, **more})
    more = {"ev_Duel": 1, "inaccurate": 1, "duel_lost_won": -1, "dt": 4 / 30}
    assert duel_lost == pytest.approx({**zeros, **other, **more})
    assert view(arrays, 2, 2)["dangerous_loss_or_assist"] == 1 and view(arrays, 2, 3)["counter"] == 1


def test_the_first_event_of_a_period_has_no_views(folder: Path) -> None:
    write(folder, [*MATCH, event(0.5, "Foul", "Protest", AWAY, 9, 1701, matchPeriod="2H")])
    arrays, _ = wyscout_arrays(folder, clean=0.0)
    assert not arrays["view_mask"][3].any() and not arrays["views"][3].any()
    assert row(arrays, 3)["period_2H"] == 1 and row(arrays, 3)["since_last_foul"] == 1
    assert row(arrays, 3)["opp_fouls"] == pytest.approx(2 / 12)
    assert arrays["severity"][3] == 3


def test_features_do_not_change_with_what_comes_after_the_contest_began(folder: Path) -> None:
    write(folder, MATCH)
    before = wyscout_arrays(folder, clean=0.0).arrays
    later = [event(200, "Foul", "Violent Foul", AWAY, 9, 1703), duel(103.7, "defending", HOME, 8)]
    write(folder, [*MATCH[:9], later[1], *MATCH[9:], later[0]])
    after = wyscout_arrays(folder, clean=0.0).arrays
    for name in ("static", "views", "view_mask", "action_class", "severity"):
        assert np.array_equal(after[name][:3], before[name]), name
    assert after["severity"][3] == 2


@pytest.mark.parametrize(
    ("linked", "name"),
    [
        (duel(99.5, "attacking", HOME, 7), "attacking_foul"),
        (duel(99.5, "defending", HOME, 7), "ground_duel"),
        (duel(99.5, "loose ball", HOME, 7), "loose_ball_duel"),
        (duel(99.5, "loose ball", HOME, 7, 1601), "sliding_tackle"),
        (event(99.5, "Duel", "Air duel", HOME, 7), "air_duel"),
        (duel(98.9, "defending", HOME, 7), "off_duel_foul"),  # more than 5 s before
        (duel(99.5, "defending", HOME, 8), "off_duel_foul"),  # another player's
    ],
)
def test_the_kind_of_a_foul_is_that_of_the_players_last_duel(folder: Path, linked: dict, name: str) -> None:
    write(folder, [linked, event(104, "Foul", "Foul", HOME, 7)])
    arrays, _ = wyscout_arrays(folder, clean=0.0)
    assert arrays["action_class_names"][arrays["action_class"]].tolist() == [name]


def test_clean_duels_are_drawn_by_their_hash_and_far_from_any_foul(folder: Path) -> None:
    fouls = [event(1000 + 100 * n, "Foul", "Foul", HOME, 7) for n in range(4)]
    duels = [duel(10 * n, "defending", AWAY, 9) for n in range(1, 13)]
    near = [duel(1000 + 100 * n + gap, "defending", AWAY, 9) for n in range(4) for gap in (-5, 5)]
    attacking = [duel(10 * n + 5, "attacking", HOME, 7) for n in range(1, 60)]
    write(folder, [*fouls, *duels, *near, *attacking])
    arrays, _ = wyscout_arrays(folder, clean=2.5)
    assert arrays["offence"].tolist() == [1] * 4 + [0] * 10
    assert (arrays["severity"][4:] == -1).all()
    assert set(arrays["action_class_names"][arrays["action_class"][4:]]) == {"ground_duel"}
    hashes = sorted((zlib.crc32(f"2499719:{one['id']}".encode()), one["eventSec"]) for one in duels)
    drawn = [row(arrays, number)["sec_over_2700"] * 2700 for number in range(4, 14)]
    assert drawn == pytest.approx(sorted(second for _, second in hashes[:10]), rel=1e-5)


def test_fouls_alone_are_told_of_when_they_are_converted(folder: Path) -> None:
    write(folder, MATCH)
    note = wyscout_arrays(folder, clean=1.0).notes[-1]
    assert note.startswith("no clean duels (1 a foul asked for; one lies 5 s away from every foul)")
    write(folder, [*MATCH, event(500, "Duel", "Air duel", AWAY, 9)])
    assert not [note for note in wyscout_arrays(folder, clean=1.0).notes if "clean" in note]


def test_matches_and_competitions_keep_apart(folder: Path) -> None:
    write(folder, [{**one, "matchId": match} for match in range(60) for one in MATCH], "Italy")
    write(folder, [{**one, "matchId": 99} for one in MATCH], "World_Cup")
    arrays, notes = wyscout_arrays(folder, clean=0.0)
    assert arrays["competition_names"].tolist() == ["Italy", "World_Cup"]
    assert arrays["competition"].tolist() == [0] * 180 + [1] * 3
    assert arrays["static_names"].tolist()[-2:] == ["comp_Italy", "comp_World_Cup"]
    assert arrays["static"][[0, 180], -2:].tolist() == [[1, 0], [0, 1]]
    every = arrays["static"][:180].reshape(60, 3, -1)
    assert (every == every[0]).all()
    assert arrays["split"].tolist() == split_by_group(arrays["match_id"].tolist())
    assert [note.split(" (")[0] for note in notes] == ["no clean duels"]


def test_shoot_outs_and_events_without_a_position_are_left_out_and_told(folder: Path) -> None:
    odd = [
        event(1, "Foul", "Foul", HOME, 7, matchPeriod="P"),
        event(2, "Foul", "Foul", HOME, 7, positions=[]),
        event(3, "Substitution", "", HOME, 7),
    ]
    write(folder, [*MATCH, *odd])
    arrays, notes = wyscout_arrays(folder, clean=0.0)
    assert len(arrays["offence"]) == 3
    for line in ("of a penalty shoot-out", "without a position", "of the kind 'Substitution'"):
        assert f"1 events left out: {line}" in notes


def test_the_converted_file_is_read_by_the_family(folder: Path, capsys) -> None:
    clean = event(500, "Duel", "Air duel", AWAY, 9)
    write(folder, [{**one, "matchId": match} for match in range(60) for one in [*MATCH, clean]])
    assert main(["data", "convert", "wyscout", "wyscout", "fouls.npz", "--clean", "0.4"]) == 0
    assert "static" in capsys.readouterr().out
    multitask = pytest.importorskip("trainables.multitask").MULTITASK
    defaults = {name: setting.default for name, setting in multitask.data_settings.items()}
    loaded = multitask.load({"source": "file", "path": "fouls.npz", **defaults})
    split = np.array(split_by_group(range(60)))
    # Of each match three fouls and, as 0.4 x 3 is nearest to 1, the one clean duel.
    sizes = [4 * int((split == part).sum()) for part in range(3)]
    assert [loaded.size(name) for name in ("train", "val", "test")] == sizes
    assert multitask.label_counts(loaded)["offence"]["no_offence"] == [size // 4 for size in sizes]
    assert multitask.label_counts(loaded)["severity"]["yellow"][0] == 2 * int((split == 0).sum())


BAD = {  # what the message says: the file's content
    "holds a mapping of 0, but must hold a list of events": {},
    "event 1: found 3, but must be a mapping": [MATCH[0], 3],
    "event 0: has no 'matchPeriod'": [{}],
    "event 0: 'matchPeriod' is '3H', but must be one of 1H, 2H, E1, E2, P": [
        {**MATCH[0], "matchPeriod": "3H"}
    ],
    "event 0: 'matchPeriod' is a list of 0": [{**MATCH[0], "matchPeriod": []}],
    "event 0: 'eventSec': found 'soon', but must be a finite number": [{**MATCH[0], "eventSec": "soon"}],
    "event 0: 'eventSec': found -1; allowed are 0 to 36000": [{**MATCH[0], "eventSec": -1}],
    "event 0: 'subEventName' of a Foul is 'Bite', but must be one of Foul": [
        {**MATCH[0], "subEventName": "Bite"}
    ],
    "event 0: 'x': found None": [{**MATCH[0], "positions": [{"x": None, "y": 1}]}],
    "event 0: 'positions' and 'tags' must be lists": [{**MATCH[0], "tags": 1702}],
    "event 0: 'playerId': found 1.5, but must be a whole number": [{**MATCH[0], "playerId": 1.5}],
    "no file holds an event 'Foul'": [MATCH[2]],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_events_are_refused_by_place(folder: Path, capsys, message: str) -> None:
    (folder / "events_England.json").write_text(json.dumps(BAD[message]))
    assert main(["data", "convert", "wyscout", "wyscout", "fouls.npz"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not Path("fouls.npz").exists()


def test_a_folder_without_events_is_refused(folder: Path) -> None:
    (folder / "matches_England.json").write_text("[]")
    with pytest.raises(BadData, match="holds no events_<Competition>.json"):
        wyscout_arrays(folder)
    with pytest.raises(BadData, match="is no folder"):
        wyscout_arrays(folder / "matches_England.json")

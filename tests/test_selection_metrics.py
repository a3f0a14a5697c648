"""selection: its metrics, two kinds of collapse, traps and pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from families import by_name, engine_of, job, run
from PIL import Image
from selection_outputs import GROUP
from selection_outputs import measured as _measured
from selection_outputs import model as _model
from selection_outputs import outputs as _outputs
from sklearn import metrics as oracle  # scikit-learn 1.9.1

from search.space import load_space, traps
from trainables.grids import COLOURS
from trainables.selection import SELECTION
from trainables.selection_pictures import MOST_SHOWN, RIGHT, WRONG, Games, _places, draw_games

# ---- metrics


def test_the_metrics_are_those_counted_by_hand():
    outputs = _outputs()
    painted, target, own = outputs["logits"].argmax(-1), outputs["target"], outputs["own"]
    right = [(painted[i] == target[i])[own[i]].double().mean().item() for i in range(12)]
    found = [int(outputs["scores"][i].argmax()) == i % GROUP for i in range(12)]
    measured = _measured(outputs)
    assert measured["selection_accuracy"] == np.mean(found)
    assert measured["reconstruction_accuracy"] == pytest.approx(np.mean(right))
    selected = [share for share, hit in zip(right, found, strict=True) if hit]
    assert measured["reconstruction_accuracy_selected"] == pytest.approx(np.mean(selected))
    balanced = oracle.balanced_accuracy_score(target[own].numpy(), painted[own].numpy())
    assert measured["reconstruction_balanced"] == pytest.approx(balanced)
    assert measured["chance"] == 1 / GROUP
    assert measured["chance_upper"] == pytest.approx(0.25 + 3 * math.sqrt(0.25 * 0.75 / 12))
    assert measured.keys() == SELECTION.metrics.keys()


def test_messages_are_counted_as_wholes_and_symbols_wherever_they_stand():
    outputs = _outputs()
    outputs["message"] = torch.tensor([[0, 1, 2]] * 6 + [[1, 0, 2]] * 3 + [[4, 4, 4]] * 3)
    measured = _measured(outputs)
    assert measured["message_entropy"] == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert (measured["distinct_messages"], measured["distinct_share"]) == (3, 0.25)
    assert (measured["top_message_share"], measured["symbols_used"]) == (0.5, 4)
    assert measured["symbol_entropy"] == pytest.approx(math.log(4))  # nine each of 0, 1, 2 and 4
    vectors = SELECTION.measure(SELECTION.examine(outputs, {"task": torch.arange(12)}, {}), {}).vectors
    assert vectors["symbol_usage"] == [0.25] * 4 + [0.0] and len(vectors["recall_per_colour"]) == COLOURS


def test_same_task_is_the_share_of_distractors_of_the_targets_task():
    task = torch.tensor([7, 7, 7, 7, 1, 1, 2, 3, 4, 5, 6, 8])
    assert _measured(_outputs(), task)["same_task"] == pytest.approx((4 * 3 + 2) / (12 * 3))


def test_chance_is_what_one_answer_for_all_scores():
    outputs = _outputs()
    outputs["scores"] = torch.zeros_like(outputs["scores"])
    measured = _measured(outputs)
    assert measured["selection_accuracy"] == measured["chance"] == 0.25
    for name, candidates in (("selection", 4), ("selection-relaxed", 8)):
        assert SELECTION.chance({}, by_name(name).full_static) == 1 / candidates


# ---- collapse


@pytest.mark.parametrize(("others", "collapsed"), [(0, True), (1, True), (2, False)])
def test_one_message_for_nine_of_ten_grids_is_a_collapse(others: int, collapsed: bool):
    outputs = _outputs()
    outputs["message"] = torch.zeros(12, 3, dtype=torch.long)
    outputs["message"][:others] = 1
    assert SELECTION.collapsed(_measured(outputs))["message"] is collapsed


@pytest.mark.parametrize(("accuracy", "collapsed"), [(0.125, True), (0.16, True), (0.17, False)])
def test_accuracy_that_guessing_could_reach_is_a_collapse(accuracy: float, collapsed: bool):
    """Of 800 examples in games of eight, guessing finds 0.125 + 0.035 at most, but once in 700 times."""
    examined = {
        "found": torch.arange(800) < accuracy * 800,
        "candidates": torch.full((800,), 8),
        "alike": torch.zeros(800),
        "message": torch.arange(800)[:, None],
        "confusion": torch.eye(COLOURS).expand(800, COLOURS, COLOURS),
    }
    scalars = SELECTION.measure(examined, {}).scalars
    assert SELECTION.collapsed(scalars) == {"message": False, "chance": collapsed}


def test_an_engine_judges_both_kinds_of_an_untrained_game():
    case = by_name("selection")
    still = {"optim.lr": 1e-6}
    [report] = run(engine_of(case, 1, {0: job(case, 0, **still)}), 1)[0]
    assert report.row["collapsed.chance"] == 1.0
    assert report.row["val.same_task"] == 1.0, "its eight validation grids are one task"


# ---- traps

SPACE = """family: selection
data: {source: synthetic, distractors.same_task: SHARE}
budget: {trials: 20, epochs: 20}
objective: OBJECTIVE
static: {distractors: DISTRACTORS}
knobs:
  reconstruction.weight: WEIGHT
  reconstruction.leak: LEAK
  reconstruction.gamma: {float: [0.0, 3.0]}
stop: {prune: off}
"""


def _traps(folder: Path, **changes: str) -> list[str]:
    values = {
        "SHARE": "0.25",
        "OBJECTIVE": "selection_accuracy",
        "DISTRACTORS": "7",
        "WEIGHT": "{float: [0.03, 3.0], log: true}",
        "LEAK": "{float: [0.0, 1.0]}",
        **changes,
    }
    text = SPACE
    for name, value in values.items():
        text = text.replace(name, value)
    (folder / "space.yaml").write_text(text, encoding="utf-8")
    return traps(load_space(folder / "space.yaml"))


def test_a_sound_space_has_no_trap(tmp_path: Path):
    assert _traps(tmp_path) == []
    assert _traps(tmp_path, LEAK="0.5") == _traps(tmp_path, LEAK="{choice: [0.0, 0.5]}") == []


@pytest.mark.parametrize("leak", ["0.0", "0", "{choice: [0.0]}"])
def test_a_weight_whose_term_is_cut_off_is_a_trap(tmp_path: Path, leak: str):
    [found] = _traps(tmp_path, LEAK=leak)
    assert found.startswith(
        "reconstruction.weight, reconstruction.gamma: searched while reconstruction.leak is 0"
    )
    assert "optim.clip alone" in found
    [found] = _traps(tmp_path, LEAK=leak, OBJECTIVE="[selection_accuracy, reconstruction_accuracy]")
    assert found.startswith("reconstruction.weight: searched")
    assert _traps(tmp_path, LEAK=leak, OBJECTIVE="reconstruction_accuracy", WEIGHT="1.0") == []


def test_knobs_of_a_term_without_weight_are_a_trap(tmp_path: Path):
    [found] = _traps(tmp_path, WEIGHT="0.0", LEAK="0.5")
    assert "reconstruction.weight is 0, so reconstruction.gamma cannot matter" in found


def test_games_of_several_sizes_do_not_compare(tmp_path: Path):
    [found] = _traps(tmp_path, DISTRACTORS="{choice: [3, 7]}")
    assert found.startswith("distractors is searched")


def test_random_distractors_alone_are_a_trap_of_real_grids(tmp_path: Path):
    assert _traps(tmp_path, SHARE="0.0") == []
    global_space = SPACE.replace("synthetic", "arc")
    for name, value in {"SHARE": "0.0", "OBJECTIVE": "selection_accuracy", "DISTRACTORS": "7"}.items():
        global_space = global_space.replace(name, value)
    text = global_space.replace("WEIGHT", "1.0").replace("LEAK", "0.5")
    (tmp_path / "arc.yaml").write_text(text, encoding="utf-8")
    [found] = traps(load_space(tmp_path / "arc.yaml"))
    assert found.startswith("distractors.same_task is 0")


def test_the_shipped_strategies_are_the_four_known_ones():
    space = load_space("selection_strategies")
    assert space.budget.trials == len(space.presets)  # nothing is left for the sampler
    whole = [space.complete(space.preset_values(preset)) for preset in space.presets]
    parts = ("reconstruction.schedule", "reconstruction.weight", "reconstruction.start")
    assert [tuple(cell[part] for part in parts) for cell in whole] == [
        ("constant", 1.0, 0.15),
        ("constant", 0.3, 0.15),
        ("adaptive", 1.0, 0.15),
        ("delayed", 1.0, 0.15),
    ]


# ---- pictures


def _games(candidates: int, choice: int) -> Games:
    source = torch.Generator().manual_seed(0)
    grid = torch.randint(10, (2 * candidates, 10, 10), generator=source)
    hw = torch.randint(1, 11, (2 * candidates, 2), generator=source)
    own = torch.arange(2 * candidates) % candidates
    message = torch.zeros(2 * candidates, 5, dtype=torch.long)
    return Games(grid, hw, grid, (own + choice) % candidates, message, candidates)


@pytest.mark.parametrize("candidates", [4, 8, 32])
def test_a_picture_marks_the_choice_green_when_it_is_right_and_red_when_not(tmp_path: Path, candidates: int):
    marks = []
    for choice in (0, 1):
        draw_games(_games(candidates, choice), tmp_path / f"{choice}.png", "trial 0")
        with Image.open(tmp_path / f"{choice}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        marks.append([int((pixels == colour).all(1).sum()) for colour in (RIGHT, WRONG)])
    (right, none), (target, wrong) = marks
    assert right == wrong > 0 and none == 0
    assert 0 < target < right, "the target that was missed has a dashed frame"


def test_a_picture_of_a_large_game_shows_target_and_choice_among_the_first(tmp_path: Path):
    assert _places(4, 2, 2) == [0, 1, 2, 3]
    shown = _places(32, 30, 25)
    assert len(shown) == MOST_SHOWN and shown[-2:] == [25, 30] and shown[:3] == [0, 1, 2]


def test_part_of_a_game_is_no_picture(tmp_path: Path):
    games = _games(4, 0)
    part = Games(*(tensor[:6] for tensor in games[:-1]), 4)
    with pytest.raises(ValueError, match="6 examples are no whole number of games of 4"):
        draw_games(part, tmp_path / "a.png", "")


def test_the_family_draws_its_models_outputs(tmp_path: Path):
    model, batch, _, knobs = _model("selection")
    SELECTION.draw(batch, model.eval()(batch, {}, knobs), {}, tmp_path / "games.png", "trial 0")
    with Image.open(tmp_path / "games.png") as picture:
        assert min(picture.size) > 100

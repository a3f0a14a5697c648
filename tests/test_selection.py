"""selection: its messages, terms, metrics, two kinds of collapse, traps and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from families import by_name, engine_of, job, run
from PIL import Image
from sklearn import metrics as oracle  # scikit-learn 1.9.1
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import one_hot

from search.space import load_space, traps
from trainables.family import Batch
from trainables.forward import Forward
from trainables.grids import COLOURS
from trainables.gumbel import Speaker, chosen, gumbel_softmax
from trainables.selection import SELECTION
from trainables.selection_data import inside
from trainables.selection_layers import PATCH, patchified, unpatchified
from trainables.selection_pictures import MOST_SHOWN, RIGHT, WRONG, Games, _places, draw_games
from trainables.slots import default_knobs
from trainables.workers import Alone

COUNTS = torch.tensor([9000.0, 500, 300, 100, 50, 30, 10, 6, 4, 1], dtype=torch.float64)
SIDE, GROUP = 10, 4


def _knobs(**changes: Any) -> dict[str, Any]:
    return {**default_knobs(SELECTION), **changes}


def _outputs(games: int = 3, length: int = 3, vocab: int = 5) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    draw = {"generator": source, "dtype": torch.float64}
    size = games * GROUP
    hw = torch.randint(1, SIDE + 1, (size, 2), generator=source)
    return {
        "scores": torch.randn(size, GROUP, **draw),
        "message": torch.randint(vocab, (size, length), generator=source),
        "logits": 2 * torch.randn(size, SIDE * SIDE, COLOURS, **draw),
        "target": torch.randint(COLOURS, (size, SIDE * SIDE), generator=source),
        "own": patchified(inside(hw, SIDE)).flatten(1),
    }


def _terms(outputs: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    return SELECTION.losses(outputs, {}, {}, SELECTION.prepare(_knobs(**changes), {"counts": COUNTS}))


def _measured(outputs: dict[str, Tensor], task: Tensor | None = None) -> dict[str, float]:
    task = torch.arange(len(outputs["scores"])) if task is None else task
    return SELECTION.measure(SELECTION.examine(outputs, {"task": task}, {}), {}).scalars


# ---- messages


def test_a_straight_through_message_is_one_hot_and_has_the_gradient_of_the_relaxed_one():
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 6, generator=source, dtype=torch.float64, requires_grad=True)
    uniform = torch.rand(20, 6, generator=source, dtype=torch.float64)
    direction = torch.randn(20, 6, generator=source, dtype=torch.float64)
    values, gradients = [], []
    for straight_through in (True, False):
        sent = gumbel_softmax(logits, uniform, temperature=0.7, straight_through=straight_through)
        values.append(sent.detach())
        gradients.append(torch.autograd.grad((sent * direction).sum(), logits)[0])
    by_hand = ((logits - (-uniform.log()).log()) / 0.7).softmax(-1)
    torch.testing.assert_close(values[1], by_hand.detach())
    assert torch.equal(values[0], one_hot(by_hand.argmax(-1), 6).double())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_symbols_are_drawn_with_the_probabilities_of_their_logits(temperature: float):
    """100,000 draws; a share is off by 4 standard deviations or more in 1 of 4,000 runs of three symbols."""
    logits = torch.tensor([0.0, 1.0, 2.0])
    uniform = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(1))
    sent = gumbel_softmax(logits.expand(100_000, 3), uniform, temperature=temperature, straight_through=True)
    expected = logits.softmax(-1)
    assert ((sent.mean(0) - expected).abs() < 4 * (expected * (1 - expected) / 100_000).sqrt()).all()


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_noise_at_the_edge_of_its_range_gives_a_finite_message_and_gradient(edge: float):
    logits = torch.zeros(2, 3, requires_grad=True)
    sent = gumbel_softmax(logits, torch.full((2, 3), edge), temperature=0.1, straight_through=False)
    assert torch.isfinite(torch.autograd.grad(sent[:, 0].sum(), logits)[0]).all()
    torch.testing.assert_close(sent, torch.full((2, 3), 1 / 3))


def test_the_chosen_symbol_is_the_largest_and_of_equals_the_first():
    assert chosen(torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_speaker_is_a_gated_recurrent_unit_that_hears_each_symbol():
    """Against torch.nn.GRUCell, whose reset gate acts after a matrix product and not before: from a state of
    0 both agree.
    """
    torch.manual_seed(0)
    speaker, cell = Speaker(4, 3, 1).double(), torch.nn.GRUCell(3, 4).double()
    state_first = torch.zeros(5, 4, dtype=torch.float64)
    with torch.no_grad():
        speaker.start.copy_(torch.randn(3))
        gates, proposal = speaker.gates, speaker.proposal
        update, reset = gates.weight[:3].T.chunk(2)
        cell.weight_ih.copy_(torch.cat([reset, update, proposal.weight[:3].T]))
        update_bias, reset_bias = gates.bias.chunk(2)
        cell.bias_ih.copy_(torch.cat([reset_bias, update_bias, proposal.bias]))
        cell.bias_hh.zero_()
    state = cell(speaker.start.expand(5, 3), state_first)
    expected = chosen(speaker.symbol(state))
    said = []
    speaker.symbol.register_forward_pre_hook(lambda _, given: said.append(given[0]))
    assert torch.equal(speaker(state_first, None, torch.tensor(1.0), True)[:, 0], expected)
    torch.testing.assert_close(said[0], state)


# ---- the model


def _model(name: str, size: int = 16) -> tuple[torch.nn.Module, dict, dict, dict]:
    case = by_name(name)
    torch.manual_seed(0)
    model = case.family.build(case.full_static, case.load().facts)
    batch = {key: tensor[:size] for key, tensor in case.load().splits["train"].items()}
    knobs = case.family.prepare(_knobs(), case.load().facts)
    shape = case.family.noise(case.full_static, case.load().facts)["gumbel"].shape
    noise = {"gumbel": torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))}
    return model, batch, noise, knobs


@pytest.mark.parametrize("name", ["selection", "selection-relaxed"])
def test_a_game_scores_every_candidate_and_repaints_every_cell(name: str):
    model, batch, noise, knobs = _model(name)
    static = by_name(name).full_static
    outputs = model(batch, noise, knobs)
    assert outputs["scores"].shape == (16, SELECTION.group(static))
    assert outputs["message"].shape == (16, static["message_length"])
    assert outputs["logits"].shape == (16, SIDE * SIDE, COLOURS)
    assert torch.equal(unpatchified(outputs["target"], SIDE), batch["grid"])
    assert torch.equal(unpatchified(outputs["own"], SIDE), inside(batch["hw"], SIDE))


def test_the_scores_are_dot_products_with_the_candidates_of_the_own_game_alone():
    model, batch, _, knobs = _model("selection")
    knobs["selector_temperature"] = torch.tensor(0.25)
    embeddings: dict[str, Tensor] = {}
    for part in ("receiver", "listener"):
        getattr(model, part).register_forward_hook(
            lambda _, __, out, part=part: embeddings.__setitem__(part, out)
        )
    scores = model.eval()(batch, {}, knobs)["scores"]
    assert embeddings["receiver"].shape == (16, 12), "each grid is encoded once"
    for target in range(16):
        for place in range(GROUP):
            candidate = embeddings["receiver"][target // GROUP * GROUP + place]
            by_hand = (embeddings["listener"][target] @ candidate) / math.sqrt(12) / 0.25
            torch.testing.assert_close(scores[target, place], by_hand)


def test_games_do_not_see_each_other():
    model, batch, noise, knobs = _model("selection")
    whole = model(batch, noise, knobs)
    part = model(*({key: t[4:8] for key, t in tensors.items()} for tensors in (batch, noise)), knobs)
    for name, tensor in part.items():
        torch.testing.assert_close(tensor, whole[name][4:8])


def test_evaluation_sends_the_likeliest_symbols_and_training_sends_sampled_ones():
    model, batch, noise, knobs = _model("selection")
    heard: list[Tensor] = []
    model.listener.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    for other in (noise, {"gumbel": noise["gumbel"].flip(0)}):
        model(batch, other, knobs)
    model.eval()
    assert torch.equal(model(batch, {}, knobs)["message"], heard[-1].argmax(-1))
    model(batch, noise, knobs)
    assert not torch.equal(heard[0], heard[1]) and torch.equal(heard[2], heard[3])
    for message in heard:
        assert set(message.flatten().tolist()) == {0.0, 1.0}


def test_relaxed_training_sends_mixtures_and_evaluation_symbols():
    model, batch, noise, knobs = _model("selection-relaxed")
    heard: list[Tensor] = []
    model.listener.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    model(batch, noise, knobs)
    model.eval()(batch, {}, knobs)
    assert ((heard[0] > 0) & (heard[0] < 1)).any() and set(heard[1].flatten().tolist()) == {0.0, 1.0}


def test_grids_of_two_sizes_with_equal_cells_differ_to_the_encoders():
    model, batch, _, knobs = _model("selection")
    blank = {"grid": torch.zeros_like(batch["grid"]), "hw": batch["hw"]}
    scores = model.eval()(blank, {}, knobs)["scores"]
    same = model({**blank, "hw": torch.full_like(batch["hw"], 5)}, {}, knobs)["scores"]
    assert (same == same[0, 0]).all() and scores.unique().numel() > 1


@pytest.mark.parametrize("leak", [0.0, 0.25, 1.0])
def test_the_sender_gets_the_leaking_share_of_the_reconstructions_gradient(leak: float):
    def gradients(leak: float) -> dict[str, Tensor]:
        model, batch, noise, knobs = _model("selection")
        outputs = model(batch, noise, {**knobs, "leak": torch.tensor(leak)})
        painted = SELECTION.losses(outputs, {}, batch, knobs)["reconstruction"].values.sum()
        named = dict(model.named_parameters())
        found = torch.autograd.grad(painted, list(named.values()), allow_unused=True)
        return {
            name: torch.zeros_like(named[name]) if gradient is None else gradient
            for name, gradient in zip(named, found, strict=True)
        }

    whole, part = gradients(1.0), gradients(leak)
    for name, gradient in whole.items():
        share = 1.0 if name.startswith("reconstructor") else leak
        torch.testing.assert_close(part[name], share * gradient)
        if name.startswith("sender") and name.endswith("weight"):
            assert gradient.abs().max() > 0
        if name.startswith(("receiver", "listener")):
            assert not gradient.any(), "the receiver's part in the selection is none of the reconstruction's"


@pytest.mark.parametrize("name", ["selection", "selection-relaxed"])
def test_no_parameter_of_sender_or_receiver_is_without_a_gradient(name: str):
    """One that cancels in the softmax over candidates, such as a bias added to all of them, has a gradient of
    rounding errors, and Adam makes full steps of those.
    """
    model, batch, noise, knobs = _model(name)
    model, noise = model.double(), {"gumbel": noise["gumbel"].double()}
    selection = SELECTION.losses(model(batch, noise, knobs), {}, batch, knobs)["selection"].values.mean()
    named = {key: p for key, p in model.named_parameters() if not key.startswith("reconstructor")}
    for key, gradient in zip(named, torch.autograd.grad(selection, list(named.values())), strict=True):
        assert gradient.abs().max() > 1e-8, key


def test_patches_hold_neighbouring_cells_and_can_be_undone():
    cells = torch.arange(2 * 225).view(2, 15, 15)
    parts = patchified(cells)
    assert parts.shape == (2, 9, PATCH * PATCH)
    assert torch.equal(parts[1, 5].view(PATCH, PATCH), cells[1, 5:10, 10:15])
    assert torch.equal(unpatchified(parts, 15), cells) and torch.equal(
        unpatchified(parts.flatten(1), 15), cells
    )


# ---- terms


def test_selection_is_the_cross_entropy_of_the_own_place():
    outputs = _outputs()
    term = _terms(outputs)["selection"]
    for example in range(12):
        odds = [math.exp(score) for score in outputs["scores"][example].tolist()]
        assert term.values[example].item() == pytest.approx(-math.log(odds[example % GROUP] / sum(odds)))
    assert term.active is None


@pytest.mark.parametrize(
    ("gamma", "method"), [(0.0, "none"), (2.0, "none"), (2.0, "sqrt_inverse"), (1.0, "inverse")]
)
def test_reconstruction_is_the_papers_focal_loss_over_the_own_cells_of_found_targets(
    gamma: float, method: str
):
    outputs = _outputs()
    counts = COUNTS.tolist()
    raw = {"none": [1.0] * 10, "inverse": [1 / n for n in counts], "sqrt_inverse": [n**-0.5 for n in counts]}
    weights = reference.normalised_class_weights(raw[method], [int(n) for n in counts], 100.0)
    term = _terms(outputs, **{"reconstruction.gamma": gamma, "class_weights.method": method})[
        "reconstruction"
    ]
    for example in range(12):
        own = outputs["own"][example].nonzero().flatten().tolist()
        logits, target = outputs["logits"][example].tolist(), outputs["target"][example].tolist()
        cells = [reference.focal_loss(logits[c], target[c], gamma, weights) for c in own]
        assert term.values[example].item() == pytest.approx(np.mean(cells), rel=1e-9)
    found = outputs["scores"].argmax(-1) == torch.arange(12) % GROUP
    assert torch.equal(term.active, found.double()) and 0 < found.sum() < 12


def test_cells_outside_the_own_size_change_neither_term_nor_metric():
    outputs = _outputs()
    changed = {**outputs, "logits": torch.where(outputs["own"][..., None], outputs["logits"], 50.0)}
    changed["target"] = torch.where(outputs["own"], outputs["target"], (outputs["target"] + 1) % 10)
    one, other = _terms(outputs), _terms(changed)
    assert torch.equal(one["reconstruction"].values, other["reconstruction"].values)
    assert _measured(outputs) == _measured(changed)


def test_no_target_found_means_no_reconstruction_and_no_figure_of_it():
    outputs = _outputs()
    outputs["scores"] = -one_hot(torch.arange(12) % GROUP, GROUP).double()
    assert _terms(outputs)["reconstruction"].active.sum() == 0
    knobs = SELECTION.prepare(_knobs(), {"counts": COUNTS})
    member = {name: tensor[None] for name, tensor in outputs.items()}

    def stack(batch: Batch, noise: Batch, knobs: Batch, *, then: Callable[..., Any]) -> Any:
        return vmap(then)(member, batch, knobs)

    found = Forward(SELECTION, stack, Alone()).train(
        {"task": torch.zeros(1, 12)}, {}, {name: value[None] for name, value in knobs.items()}, 12
    )
    assert found.values.shape == found.active.shape == (1, 2, 12)
    assert (found.values[0, 1].sum(), found.active[0, 1].sum()) == (0.0, 0.0)
    measured = _measured(outputs)
    assert math.isnan(measured["reconstruction_accuracy_selected"]) and measured["selection_accuracy"] == 0


def test_the_terms_run_under_vmap_as_member_by_member():
    members = [_outputs(), {name: tensor.flip(0) for name, tensor in _outputs().items()}]
    prepared = [
        SELECTION.prepare(_knobs(**{"reconstruction.gamma": gamma}), {"counts": COUNTS})
        for gamma in (0.0, 2.0)
    ]
    stacked, knobs = ({k: torch.stack([m[k] for m in ms]) for k in ms[0]} for ms in (members, prepared))
    together = vmap(lambda o, k: {n: t.values for n, t in SELECTION.losses(o, {}, {}, k).items()})(
        stacked, knobs
    )
    for i, outputs in enumerate(members):
        for name, term in SELECTION.losses(outputs, {}, {}, prepared[i]).items():
            torch.testing.assert_close(together[name][i], term.values)


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

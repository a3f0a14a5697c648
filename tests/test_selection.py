"""selection: its messages, its model and its terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from families import by_name
from selection_outputs import COUNTS, GROUP, SIDE
from selection_outputs import knobs as _knobs
from selection_outputs import measured as _measured
from selection_outputs import model as _model
from selection_outputs import outputs as _outputs
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import one_hot

from trainables.family import Batch
from trainables.forward import Forward
from trainables.grids import COLOURS
from trainables.gumbel import Speaker, chosen, gumbel_softmax
from trainables.selection import SELECTION
from trainables.selection_data import inside
from trainables.selection_layers import PATCH, patchified, unpatchified
from trainables.workers import Alone


def _terms(outputs: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    return SELECTION.losses(outputs, {}, {}, SELECTION.prepare(_knobs(**changes), {"counts": COUNTS}))


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

"""K models as one module: a row is an ordinary model."""

from __future__ import annotations

import pytest
import torch
from families import CASES, Case, engine_of, ids, job
from torch import Tensor, nn

from trainables.stack import ALIGNMENT, Stack

CPU = torch.device("cpu")


class Scaled(nn.Module):
    """A model with a parameter without axes, for which shapes are easily mistaken."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: dict[str, Tensor], noise: dict, knobs: dict) -> dict[str, Tensor]:
        return {"y": self.linear(batch["x"]) * self.scale}


def _stack(num_slots: int) -> tuple[Stack, list[Scaled]]:
    torch.manual_seed(0)
    models = [Scaled() for _ in range(num_slots)]
    stack = Stack(Scaled(), num_slots, device=CPU, dtype=torch.float32)
    for slot, model in enumerate(models):
        stack.write_row(slot, model.state_dict())
    return stack, models


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize("same_batch", [False, True])
def test_each_row_answers_as_the_model_that_was_written_to_it(num_slots: int, same_batch: bool):
    stack, models = _stack(num_slots)
    x = torch.randn(5, 3) if same_batch else torch.randn(num_slots, 5, 3)
    outputs = stack({"x": x}, {}, {}, same_batch=same_batch)["y"]
    assert outputs.shape == (num_slots, 5, 2)
    for slot, model in enumerate(models):
        expected = model({"x": x if same_batch else x[slot]}, {}, {})["y"]
        torch.testing.assert_close(outputs[slot], expected)


def test_a_row_read_back_is_the_state_dict_that_was_written():
    stack, models = _stack(2)
    for slot, model in enumerate(models):
        state = stack.read_row(slot)
        assert list(state) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor) and state[name].shape == tensor.shape
        Scaled().load_state_dict(state)


def test_a_row_read_back_does_not_move_with_the_stack_and_owns_its_memory():
    stack, models = _stack(2)
    state = stack.read_row(0)
    with torch.no_grad():
        stack.rows.zero_()
    assert torch.equal(state["linear.weight"], models[0].linear.weight)
    for tensor in state.values():
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()


def test_writing_a_row_leaves_the_others_alone():
    stack, models = _stack(3)
    before = stack.rows.detach().clone()
    stack.write_row(1, Scaled().state_dict())
    assert torch.equal(stack.rows[[0, 2]], before[[0, 2]])
    assert not torch.equal(stack.rows[1], before[1])


def test_rows_start_at_one_alignment_and_are_the_only_parameter():
    stack, _ = _stack(3)
    assert stack.rows.shape == (3, ALIGNMENT)  # 6 + 2 + 1 numbers are used
    assert [name for name, _ in stack.named_parameters()] == ["rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, r"missing \['scale'\]"),
        ({"more": torch.zeros(1)}, r"extra \['more'\]"),
        ({"linear.bias": torch.zeros(3)}, r"linear.bias is \(3,\), the model has \(2,\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(change: dict, message: str):
    stack, models = _stack(1)
    state = {**models[0].state_dict(), **change}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        stack.write_row(0, state)


def test_each_rows_gradient_is_its_own():
    stack, _ = _stack(3)
    x = torch.randn(3, 5, 3)
    loss = stack({"x": x}, {}, {})["y"].square().mean((1, 2))
    loss[1].backward()
    gradient = stack.rows.grad
    assert gradient[1].any() and not gradient[[0, 2]].any()


@pytest.mark.parametrize("num_slots", [1, 3])
def test_what_is_made_of_outputs_under_the_same_vmap_sees_one_member_and_keeps_its_gradient(num_slots: int):
    stack, models = _stack(num_slots)
    x, scale = torch.randn(num_slots, 5, 3), torch.arange(1.0, num_slots + 1)

    def then(outputs: dict[str, Tensor], batch: dict[str, Tensor], knobs: dict[str, Tensor]) -> tuple:
        assert outputs["y"].shape == (5, 2) and batch["x"].shape == (5, 3) and knobs["scale"].shape == ()
        return (outputs["y"].sum() * knobs["scale"], {"x": batch["x"]})

    total, given = stack({"x": x}, {}, {"scale": scale}, then=then)
    assert torch.equal(given["x"], x)
    total.sum().backward()
    for slot, model in enumerate(models):
        expected = model({"x": x[slot]}, {}, {})["y"].sum() * scale[slot]
        torch.testing.assert_close(total[slot], expected)
        expected.backward()
        gradient = stack.as_state(stack.rows.grad[slot])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradient[name], parameter.grad)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_training_mode_reaches_the_model_and_evaluation_needs_no_noise(case: Case):
    engine = engine_of(case, 2, {0: job(case, 0)})
    engine.stack.train()
    assert engine.stack.template.training
    size = engine.group * max(1, 3 // engine.group)
    batch = {name: tensor[:size] for name, tensor in engine.splits["val"].items()}
    first, second = engine.predict(0, batch), engine.predict(0, batch)
    assert not engine.stack.template.training
    for name, tensor in first.items():
        assert len(tensor) == size and torch.equal(tensor, second[name])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_prediction_is_that_of_the_ordinary_model_with_the_rows_state_dict(case: Case):
    engine = engine_of(case, 3, {slot: job(case, slot) for slot in range(3)}, dtype=torch.float64)
    model = case.family.build(case.full_static, case.load().facts).double().eval()
    model.load_state_dict(engine.stack.read_row(1))
    size = engine.group * max(1, 5 // engine.group)
    batch = {name: tensor[:size] for name, tensor in engine.splits["val"].items()}
    expected = model(batch, {}, {name: value[1] for name, value in engine.knobs.items()})
    for name, tensor in engine.predict(1, batch).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-10)

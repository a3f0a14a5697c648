"""panels: its metrics, its kinds of collapse, its pictures and its traps."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import by_name
from panels_outputs import model as _model
from panels_outputs import outputs as _outputs
from panels_outputs import prepared as _prepared
from PIL import Image
from torch import Tensor

from search.parameters import Parameter
from trainables.family import Data
from trainables.panels import MOST_CANDIDATES, MOST_COMPARED, PANELS

# ---- metrics


def _examined(**changes: Tensor) -> dict[str, Tensor]:
    return PANELS.examine({**_outputs(), **changes}, {}, {})


def test_what_is_examined_holds_no_graph():
    outputs = _outputs()
    outputs["fused"].requires_grad_()
    assert not any(tensor.requires_grad for tensor in PANELS.examine(outputs, {}, {}).values())


def test_selection_accuracy_is_the_mean_of_both_retrievals_and_every_metric_is_documented():
    found = PANELS.measure(_examined(), {}).scalars
    assert found.keys() == PANELS.metrics.keys()
    assert found["selection_accuracy"] == (found["page_retrieval"] + found["image_text_recall_1"]) / 2
    assert (found["panels_compared"], found["recall_candidates"]) == (9, 9)
    assert found["panels_per_page"] == 9 / 5


def test_perfect_embeddings_score_one():
    shown = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    outputs = _outputs(shown.tolist())
    page = torch.eye(3, 6, dtype=torch.float64).unsqueeze(1).expand(3, 3, 6)
    perfect = {**outputs, "fused": page, "text": outputs["image"]}
    found = PANELS.measure(PANELS.examine(perfect, {}, {}), {}).scalars
    assert found["selection_accuracy"] == found["image_text_recall_5"] == found["image_text_in_page"] == 1
    assert (found["cosine_within_page"], found["cosine_between_pages"]) == (1, 0)
    assert found["rankme"] == pytest.approx(3, rel=0.02), "pages of 3, 2 and 3 panels"


def test_the_spread_of_embeddings_is_1_when_they_go_everywhere_and_0_when_they_are_one():
    shown = torch.ones(300, 3).tolist()
    outputs = _outputs(shown)
    spread = PANELS.measure(PANELS.examine(outputs, {}, {}), {}).scalars
    assert spread["embedding_std_relative"] == pytest.approx(1, abs=0.02)
    assert spread["embedding_std"] == pytest.approx(1 / math.sqrt(6), abs=0.01)
    one = outputs["fused"][:1, :1].expand(300, 3, 6)
    alike = PANELS.measure(PANELS.examine({**outputs, "fused": one}, {}, {}), {})
    assert alike.scalars["embedding_std"] == pytest.approx(0, abs=1e-12)
    assert alike.scalars["rankme"] == pytest.approx(1, abs=1e-3)
    assert len(alike.vectors["std_per_dim"]) == 6
    assert alike.vectors["gate_image_text_layout"] == pytest.approx([1 / 3] * 3)


def test_metrics_do_not_depend_on_the_order_of_pages_and_are_bounded_in_cost():
    outputs = _outputs(torch.ones(400, 3).tolist())
    turned = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    examined = PANELS.examine(outputs, {}, {})
    found = PANELS.measure(examined, {}).scalars
    again = PANELS.measure({name: t[turned] for name, t in examined.items()}, {}).scalars
    assert found == pytest.approx(again, rel=1e-9)
    assert (found["panels_compared"], found["recall_candidates"]) == (MOST_COMPARED, MOST_CANDIDATES)


def test_without_two_candidates_page_retrieval_alone_decides_and_recall_is_not_a_number():
    none = torch.zeros(5, 4, dtype=torch.bool)
    found = PANELS.measure(_examined(both=none), {}).scalars
    assert found["selection_accuracy"] == found["page_retrieval"]
    assert math.isnan(found["image_text_recall_1"]) and math.isnan(found["recall_chance"])


def test_chance_is_what_embeddings_that_are_all_alike_score_on_the_validation_split():
    data = by_name("panels").load()
    validation = data.splits["val"]
    shown = validation["panel_mask"] & (validation["has_image"] | validation["has_text"])
    alike = torch.ones(*shown.shape, 4) / 2
    examined = {
        **dict.fromkeys(("fused", "image", "text"), alike),
        "gate": alike[..., :3],
        "shown": shown,
        "both": validation["has_image"] & validation["has_text"],
        "page": validation["page"],
    }
    scored = PANELS.measure(examined, data.facts).scalars["selection_accuracy"]
    assert PANELS.chance(data.facts, {}) == pytest.approx(scored, rel=1e-9)


def test_embeddings_that_are_not_finite_are_measured_as_not_a_number():
    broken = _outputs()["fused"]
    broken[0, 0, 0] = math.nan
    measured = PANELS.measure(_examined(fused=broken), {})
    assert measured.scalars.keys() == PANELS.metrics.keys()
    assert all(math.isnan(value) for value in measured.scalars.values())
    assert not any(PANELS.collapsed(measured.scalars).values())


# ---- collapse


@pytest.mark.parametrize(
    ("within", "between", "relative", "expected"),
    [
        (0.96, 0.96, 0.2, (True, False)),
        (0.96, 0.94, 0.3, (False, False)),
        (0.94, 0.96, 0.3, (False, False)),
        (0.5, 0.5, 0.099, (False, True)),
        (0.5, 0.5, 0.101, (False, False)),
        (1.0, 1.0, 0.0, (True, True)),
    ],
)
def test_collapse_is_told_by_cosines_or_by_the_spread(
    within: float, between: float, relative: float, expected: tuple[bool, bool]
):
    names = ("cosine_within_page", "cosine_between_pages", "embedding_std_relative")
    found = PANELS.collapsed(dict(zip(names, (within, between, relative), strict=True)))
    assert (found["cosine"], found["dimension"]) == expected


@pytest.mark.parametrize(
    ("contrastive", "alignment", "judged"),
    [(True, True, True), (False, True, False), (True, False, False)],
)
def test_collapse_is_judged_once_the_terms_that_push_apart_are_at_full_weight(
    contrastive: bool, alignment: bool, judged: bool
):
    full = {"contrastive": contrastive, "reconstruction": False, "alignment": alignment}
    assert PANELS.collapse_is_judged("cosine", {}, full) is judged


# ---- pictures


def test_a_picture_frames_neighbours_of_the_same_page_green(tmp_path: Path):
    model, batch, _ = _model()
    outputs = model.eval()(batch, {}, _prepared())
    PANELS.draw(batch, {name: t.detach() for name, t in outputs.items()}, {}, tmp_path / "a.png", "trial 0")
    page = F.normalize(torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    perfect = {**outputs, "fused": page.expand(8, 4, 64)}
    PANELS.draw(batch, perfect, {}, tmp_path / "b.png", "trial 0, every nearest panel on its page")
    green = []
    for name in ("a", "b"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300
            green.append(int((np.asarray(picture) == (34, 139, 34)).all(-1).sum()))
    assert 0 <= green[0] < green[1]


def test_pages_of_single_panels_have_no_query_to_draw(tmp_path: Path):
    model, batch, _ = _model()
    batch["panel_mask"][:, 1:] = False
    with pytest.raises(ValueError, match="no query to draw"):
        PANELS.draw(batch, model.eval()(batch, {}, _prepared()), {}, tmp_path / "a.png", "")


# ---- traps


def _space(**changes: Any) -> SimpleNamespace:
    """A space whose parameters have the family's defaults, but for numbers, (low, high) or word lists."""

    def parameter(name: str, value: Any) -> Parameter:
        if isinstance(value, tuple):
            return Parameter(name, "float", low=value[0], high=value[1])
        if isinstance(value, list):
            return Parameter(name, "choice", choices=tuple(value))
        return Parameter(name, "fixed", value=value)

    static, knobs = (
        {name: parameter(name, changes.get(name, setting.default)) for name, setting in settings.items()}
        for settings in (PANELS.statics, PANELS.knobs)
    )
    return SimpleNamespace(static=static, knobs=knobs)


OFF = {"contrastive.weight": 0.0, "reconstruction.weight": 0.0, "alignment.weight": 0.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contrastive.temperature": (0.02, 2.0)}, ["contrastive.temperature may be 2: above 0.5"]),
        ({"alignment.temperature": (0.005, 0.5)}, ["alignment.temperature may be 0.005: below 0.02"]),
        ({"contrastive.temperature": [0.01, 1.0]}, ["may be 1: above 0.5", "may be 0.01: below 0.02"]),
        (OFF, ["All three weights are 0", "alignment.weight is 0: image-text recall"]),
        (
            {**OFF, "contrastive.weight": (0.1, 3.0)},
            ["contrastive.weight is searched while both other weights are 0", "image-text recall"],
        ),
        (
            {"contrastive.weight": 0.0, "contrastive.temperature": (0.05, 0.5)},
            ["contrastive.temperature is searched though contrastive.weight is 0"],
        ),
        (
            {"reconstruction_target": ["detached", "attached"], "contrastive.weight": (0.0, 1.0)},
            ["reconstruction_target may be attached while contrastive.weight may be 0"],
        ),
        ({"reconstruction_target": "attached"}, []),
        ({"contrastive.temperature": (0.02, 0.5), "alignment.weight": (0.05, 3.0)}, []),
    ],
)
def test_spaces_that_will_not_do_what_they_say_are_told_so(changes: dict[str, Any], said: list[str]):
    found = PANELS.traps(_space(**changes), None)
    assert len(found) == len(said)
    for warning, part in zip(found, said, strict=True):
        assert part in warning and warning.endswith(".")


def test_alignment_without_panels_that_have_both_is_told():
    data = Data({}, {"num_aligned": 1})
    (warning,) = PANELS.traps(_space(), data)
    assert "alignment is never active" in warning
    assert not PANELS.traps(_space(), Data({}, {"num_aligned": 2}))

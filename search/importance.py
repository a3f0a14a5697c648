"""Which knobs mattered, with an uncertainty; Optuna's evaluators do the rating. No torch.

The importance of a knob is the mean of two shares, each summing to 1 over the knobs:

    fANOVA      its part of the variance of the score over the whole space (Hutter et al. 2014), by a forest;
                a knob out of force stands in mid-range
    PED-ANOVA   how far its values in the best fifth differ from those of all trials (Watanabe et al. 2023;
                conditional knobs as in Optuna 5: by regime)

The first uses the few bad trials that a search makes early, the second looks at the region that matters.
Either alone is less often right at 30 to 60 trials: tests/bench/LOG.md has the figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.columns import Columns, Setting
from search.forest import FEWEST, Forest

if TYPE_CHECKING:
    import optuna

__all__ = ["Importance", "KnobImportance", "importance"]

TOP = 0.2  # PED-ANOVA's target quantile: the best fifth
FEWEST_TOP = 5  # trials in it (Optuna's advice)
RESAMPLES = 20
TREES, MOST_TREES = 8, 64
MOST_FANOVA, MOST = 80, 400  # trials of one resample, trials in all: fANOVA's time grows with the nodes


@dataclass(frozen=True)
class KnobImportance:
    """`share` of all importance, 0 to 1, with a 95 % interval over resampled trials.

    first: how often it ranks first in resamples. trials: how many had it in force; `enough` is False with
    fewer than 12, which say little of it whatever the interval. fanova, ped_anova: the two shares of which
    `share` is the mean.
    """

    name: str
    share: float
    low: float
    high: float
    first: float
    trials: int
    conditional: bool
    fanova: float
    ped_anova: float
    enough: bool


@dataclass(frozen=True)
class Importance:
    """The knobs, most important first; empty where `enough` is False.

    explained: share of the differences between trials that settings foretell out of bag; what is left is the
    luck of the seed, or too fine to be seen with so many trials.
    """

    knobs: list[KnobImportance]
    enough: bool
    trials: int
    top: float
    explained: float | None
    method: str
    sentence: str


def importance(columns: Columns, forest: Forest | None, resamples: int = RESAMPLES) -> Importance:
    """Each searched knob's share of importance; none where the trials cannot tell.

    They cannot with fewer than 12 scores, or when a forest foretells scores out of bag no better than chance
    would (5 %, one-sided): then a ranking would be one of noise.
    """
    varying = {name: one for name, one in columns.settings.items() if _varies(one)}
    refusal = _refusal(columns, forest, varying)
    n = columns.num_scored
    if refusal:
        sentence = f"Which knobs mattered: not enough data ({refusal})."
        return Importance([], False, n, TOP, forest and forest.explained, _method(n), sentence)
    random = np.random.default_rng(0)
    source = _Source(columns, varying, _some(len(columns.scores), random))
    resampled = [source.shares(source.resample(random), TREES, seed) for seed in range(resamples)]
    both = np.stack([shares.mean(0) for shares in resampled])
    everything = np.arange(len(source.dense))
    if len(everything) <= MOST_FANOVA:
        point = source.shares((everything, everything), MOST_TREES, 0)
    else:
        point = np.mean(resampled, 0)
        point[1] = source.ped_anova(everything)
    low, high = np.quantile(both, [0.025, 0.975], axis=0)
    firsts = np.bincount(both.argmax(1), minlength=len(varying)) / resamples
    share = point.mean(0)
    knobs = [
        KnobImportance(
            name=name,
            share=float(share[i]),
            low=float(min(low[i], share[i])),
            high=float(max(high[i], share[i])),
            first=float(firsts[i]),
            trials=int(setting.in_force.sum()),
            conditional=bool(setting.parameter.when),
            fanova=float(point[0, i]),
            ped_anova=float(point[1, i]),
            enough=int(setting.in_force.sum()) >= FEWEST,
        )
        for i, (name, setting) in enumerate(varying.items())
    ]
    knobs.sort(key=lambda knob: -knob.share)
    explained = max(0.0, forest.explained)
    return Importance(knobs, True, n, TOP, explained, _method(n), _sentence(knobs, explained, n))


def _varies(setting: Setting) -> bool:
    seen = setting.unit[setting.in_force]
    return seen.size >= 2 and bool(np.ptp(seen) > 0)


def _refusal(columns: Columns, forest: Forest | None, varying: Mapping[str, Setting]) -> str | None:
    n = columns.num_scored
    if not varying:
        return "no setting varied"
    if n < FEWEST:
        return f"{n} trials have a score, and {FEWEST} are needed"
    if forest is None:
        return "all scores are equal"
    if not forest.sees:
        return f"over {n} trials the settings foretell the score no better than chance"
    return None


def _some(n: int, random: np.random.Generator) -> np.ndarray:
    """Positions of the trials that are rated: all, or of very many a random part."""
    return np.arange(n) if n <= MOST else np.sort(random.choice(n, MOST, replace=False))


class _Source:
    """The trials as Optuna's, once; studies of resamples are made from them."""

    def __init__(self, columns: Columns, settings: Mapping[str, Setting], rows: np.ndarray) -> None:
        import optuna

        import search.study  # noqa: F401 - sets how much Optuna says

        self.names = list(settings)
        self.distributions = {name: _distribution(one) for name, one in settings.items()}
        middle = {name: _middle(one) for name, one in settings.items()}
        self.sparse, self.dense = [], []
        for place, value in zip(rows.tolist(), columns.goodness[rows].tolist(), strict=True):
            held = {name: one.values[place] for name, one in settings.items() if one.in_force[place]}
            used = {name: self.distributions[name] for name in held}
            make = optuna.trial.create_trial
            self.sparse.append(make(params=held, distributions=used, value=value))
            self.dense.append(make(params=middle | held, distributions=self.distributions, value=value))

    def resample(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the trials for fANOVA and for PED-ANOVA, with replacement; of many, fewer."""
        n = len(self.dense)
        return random.integers(n, size=min(n, MOST_FANOVA)), random.integers(n, size=n)

    def shares(self, rows: tuple[np.ndarray, np.ndarray], trees: int, seed: int) -> np.ndarray:
        """f[2, knobs]: fANOVA's and PED-ANOVA's shares."""
        return np.stack([self.fanova(rows[0], trees, seed), self.ped_anova(rows[1])])

    def fanova(self, rows: np.ndarray, trees: int, seed: int) -> np.ndarray:
        from optuna.importance import FanovaImportanceEvaluator

        return self._rated(
            [self.dense[row] for row in rows], FanovaImportanceEvaluator(n_trees=trees, seed=seed)
        )

    def ped_anova(self, rows: np.ndarray) -> np.ndarray:
        from optuna.importance import PedAnovaImportanceEvaluator

        top = min(0.5, max(TOP, FEWEST_TOP / len(rows)))
        return self._rated(
            [self.sparse[row] for row in rows], PedAnovaImportanceEvaluator(target_quantile=top)
        )

    def _rated(self, trials: list[optuna.trial.FrozenTrial], evaluator: Any) -> np.ndarray:
        import optuna

        if len({trial.value for trial in trials}) < 2:
            return np.full(len(self.names), 1 / len(self.names))
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        present = {name for trial in trials for name in trial.distributions}
        with warnings.catch_warnings():
            # Of a resample in which few trials have a knob in force: its interval shows as much.
            warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
            warnings.filterwarnings("ignore", message="Target and region quantiles", category=UserWarning)
            names = [name for name in self.names if name in present]
            found = evaluator.evaluate(study, params=names)
        rated = np.array([max(0.0, found.get(name, 0.0)) for name in self.names])
        return rated / rated.sum() if rated.sum() > 0 else np.full(len(rated), 1 / len(rated))


def _distribution(setting: Setting) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parameter = setting.parameter
    if parameter.kind == "choice":
        return CategoricalDistribution(list(parameter.choices))
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _middle(setting: Setting) -> Any:
    parameter = setting.parameter
    if parameter.kind == "choice":
        return parameter.choices[0]
    middle = float(setting.value_at(0.5))
    return int(middle) if parameter.kind == "int" else middle


def _method(n: int) -> str:
    size = f"{MOST_FANOVA} of {n}" if n > MOST_FANOVA else str(n)
    return (
        f"mean of the shares by fANOVA (whole space, {size} trials at a time) and by PED-ANOVA (best "
        f"{TOP:.0%} against all); 95 % intervals over {RESAMPLES} resamples of the trials"
    )


def _sentence(knobs: list[KnobImportance], explained: float, n: int) -> str:
    first = knobs[0]
    amount = f"{first.share:.0%} of the importance, 95 % interval {first.low:.0%} to {first.high:.0%}"
    noise = f"the settings foretell {explained:.0%} of the differences between {n} trials"
    rare = [knob.name for knob in knobs if not knob.enough]
    unknown = f" Too seldom in force to be rated: {', '.join(rare)}." if rare else ""
    rivals = [knob.name for knob in knobs[1:] if knob.first >= 0.2]
    if rivals or first.first < 0.5:
        which = f"it may be {' or '.join(rivals)}" if rivals else "resamples disagree"
        return f"{first.name} seems to have mattered most ({amount}), but {which}: {noise}.{unknown}"
    return (
        f"{first.name} mattered most ({amount}; first in {first.first:.0%} of resamples): {noise}.{unknown}"
    )

"""What the service costs: one list of trials through the search, through Ray's documented pattern, in a loop.

    python tests/bench/overhead.py [--only short|long] [--repeat N] [--quick] [--json FILE]

Each way (`patterns.py`) runs in a process of its own, and its wall time is that process's from start to end:
imports, Ray's start and Ray's end included. See README.md beside this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patterns import CONFIGURATIONS, REGIMES, WAYS
from processes import foster_parent, run

TITLES = {
    "search": "loss-search",
    "nested": "TorchTrainer.fit in a Tune function",
    "loop": "plain loop, no Ray",
}
NESTED_WAVES = 3  # trials a core through the documented pattern; all 12 on two cores take several minutes
QUICK_TRIALS = {"search": 4, "nested": 2, "loop": 4}
TOLERANCE = 1e-6
SLOWER = 10.0  # how many times more seconds a short trial takes through the documented pattern, at least
KEPT = 0.85  # share of the plain loop's throughput that the search keeps on long trials, at least


@dataclass(frozen=True)
class Measured:
    """One way through one regime; times in seconds.

    `first_row_s`: until the first epoch's row. `warm_s`: from then until the last trial's end. `steady_s`:
    time a trial between the end of the first wave (one trial a core) and the last end, so that neither
    start-up nor the number of trials enters. `cpu_s`: CPU time of all its processes, which other work on the
    machine changes little.
    """

    regime: str
    way: str
    trials: int
    wall_s: float
    first_row_s: float
    warm_s: float
    steady_s: float
    cpu_s: float
    best: dict[str, float]
    loss: dict[str, float]
    left_behind: list[str]

    @property
    def total_a_trial_s(self) -> float:
        """Wall time a trial had the whole list been run: what was not run, at the steady pace."""
        return (self.wall_s + (CONFIGURATIONS - self.trials) * self.steady_s) / CONFIGURATIONS

    @property
    def warm_a_trial_s(self) -> float:
        return self.warm_s / self.trials


def measure(way: str, regime: str, trials: int) -> Measured:
    """Run one way to its end. Exits with its last words when it fails."""
    with tempfile.TemporaryDirectory(prefix="lsb-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        result, log = directory / "result.json", directory / "log"
        script = Path(__file__).with_name("patterns.py")
        command = [sys.executable, script, way, regime, str(trials), directory, result]
        # In its own directory of temporary files, so that they go with it; Ray's sockets need it to be short.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": name}
        began = time.time()
        ended = run(command, environment, log)
        if ended.code != 0:
            said = log.read_text(errors="replace").splitlines()[-20:]
            how = "was killed, it did not end" if ended.code is None else f"ended with {ended.code}"
            sys.exit("\n".join([f"{regime}, {way}: {how}; it said:", *said]))
        seen = json.loads(result.read_text())
    first, ends = min(seen["first"].values()), sorted(seen["ended"].values())
    assert len(ends) == trials, f"{way}: {len(ends)} of {trials} trials ended"
    wave = min(len(os.sched_getaffinity(0)), trials - 1)
    return Measured(
        regime,
        way,
        trials,
        wall_s=ended.wall_s,
        first_row_s=first - began,
        warm_s=ends[-1] - first,
        steady_s=(ends[-1] - ends[wave - 1]) / (trials - wave),
        cpu_s=ended.cpu_s,
        best=seen["best"],
        loss=seen["loss"],
        left_behind=ended.left_behind,
    )


def median_of(runs: Sequence[Measured]) -> Measured:
    """The medians of the times of repeated runs; results are those of the first."""
    names = ("wall_s", "first_row_s", "warm_s", "steady_s", "cpu_s")
    medians = {name: statistics.median(getattr(one, name) for one in runs) for name in names}
    left_behind = [command for one in runs for command in one.left_behind]
    return Measured(**{**asdict(runs[0]), **medians, "left_behind": left_behind})


def differences(runs: Sequence[Measured]) -> list[str]:
    """Where runs of one regime did not do the same work: best score and last loss of each configuration."""
    found = []
    for regime in dict.fromkeys(one.regime for one in runs):
        own = [one for one in runs if one.regime == regime]
        reference = next(one for one in own if one.way == "loop")
        for one in own:
            for what in ("best", "loss"):
                theirs = getattr(reference, what)
                found += [
                    f"{regime}, configuration {i}: {what} {value!r} in {one.way}, {theirs[i]!r} in loop"
                    for i, value in getattr(one, what).items()
                    if not abs(value - theirs[i]) <= TOLERANCE  # `not`: a NaN differs
                ]
    return found


def ratios(regime: str, by_way: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The ratios of a regime, each with its target: cost for short trials, throughput for long ones."""
    ours, nested, loop = by_way["search"], by_way["nested"], by_way["loop"]
    total = nested.total_a_trial_s / ours.total_a_trial_s
    steady = nested.steady_s / ours.steady_s
    kept = loop.warm_s / ours.warm_s
    found = []
    if regime != "long":
        found.append(("seconds a trial with start-up, nested / search", total, SLOWER))
        found.append(("seconds a trial in steady state, nested / search", steady, SLOWER))
    if regime != "short":
        found.append(("trials a second after warm-up, search / loop", kept, KEPT))
    return [
        {"regime": regime, "ratio": words, "value": value, "target": target, "reached": value >= target}
        for words, value, target in found
    ]


# ---------------------------------------------------------------------- what is printed


def table(measured: Sequence[Measured]) -> list[str]:
    """The times as aligned lines."""
    head = ("regime", "way", "run", "wall", "first row", "total", "after warm-up", "steady", "CPU")
    rows = [head]
    for one in measured:
        times = (one.wall_s, one.first_row_s, one.total_a_trial_s, one.warm_a_trial_s, one.steady_s)
        times += (one.cpu_s / one.trials,)
        rows.append((one.regime, TITLES[one.way], str(one.trials), *(f"{seconds:.2f}" for seconds in times)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = [cell.rjust(w) if column > 1 else cell.ljust(w) for column, (cell, w) in enumerate(cells)]
        lines.append("  ".join(aligned))
    return lines


LEGEND = f"""
Times in seconds. run: trials that were run. wall: the whole process. first row: from its start to the first
epoch's row. The last four are seconds a trial. total: wall over {CONFIGURATIONS} trials, those not run
counted at the steady pace; after warm-up: from the first row to the last trial's end; steady: from the end
of the first wave (one trial a core) to the last end; CPU: of all processes from start to end, over the
trials run.
"""


def print_all(
    machine: str, measured: Sequence[Measured], found: Sequence[Mapping[str, Any]], wrong: Sequence[str]
) -> None:
    print(machine)
    for name in dict.fromkeys(one.regime for one in measured):
        regime = REGIMES[name]
        print(f"{name}: {regime.grids:,} synthetic grids, {regime.epochs} epochs a trial, one slot an engine")
    print("\n" + "\n".join(table(measured)) + "\n" + LEGEND)
    for one in found:
        mark = "reached" if one["reached"] else "NOT reached"
        print(f"{one['regime']}: {one['ratio']}: {one['value']:.2f} (target >= {one['target']:g}: {mark})")
    for one in measured:
        for command in one.left_behind:
            print(f"{one.regime}, {one.way}: left a process behind, which was killed: {command[:100]}")
    same = f"same work: best score and last loss of each configuration agree within {TOLERANCE:g}"
    print("\n".join(wrong) if wrong else same)


def machine_in_words(repeat: int) -> str:
    """The machine, how busy it is now, and how often everything was run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = sorted({line.partition(":")[2].strip() for line in lines if line.startswith("model name")})
    cores = len(os.sched_getaffinity(0))
    processor = ", ".join(models) or "unknown processor"
    return f"{cores} cores, {processor}; load {os.getloadavg()[0]:.1f}; medians of {repeat} run(s)"


# ---------------------------------------------------------------------- the command


def main() -> None:
    given = _arguments()
    regimes = ["quick"] if given.quick else [given.only] if given.only else ["short", "long"]
    trials = {"search": CONFIGURATIONS, "nested": given.nested, "loop": CONFIGURATIONS}
    runs: list[Measured] = []
    with foster_parent():
        for regime in regimes:
            for way in [way for _ in range(given.repeat) for way in WAYS]:
                runs.append(measure(way, regime, (QUICK_TRIALS if given.quick else trials)[way]))
                one = runs[-1]
                print(
                    f"{regime}, {way}: {one.trials} trials, {one.wall_s:.1f} s", file=sys.stderr, flush=True
                )
    measured, found = [], []
    for regime in regimes:
        by_way = {way: median_of([o for o in runs if (o.regime, o.way) == (regime, way)]) for way in WAYS}
        measured += by_way.values()
        found += ratios(regime, by_way)
    machine, wrong = machine_in_words(given.repeat), differences(runs)
    print_all(machine, measured, found, wrong)
    if given.json:
        content = {"machine": machine, "ratios": found, "measured": [asdict(one) for one in measured]}
        runs_too = {"runs": [asdict(one) for one in runs], "differences": wrong}
        given.json.write_text(json.dumps(content | runs_too, indent=1), encoding="utf-8")
    if wrong:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("short", "long"), help="one regime instead of both")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run everything N times: medians")
    cores = len(os.sched_getaffinity(0))
    least, default = (min(waves * cores, CONFIGURATIONS) for waves in (2, NESTED_WAVES))
    parser.add_argument(
        "--nested",
        type=int,
        default=default,
        metavar="N",
        help="trials of the documented pattern: whole waves",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test, no figures to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured there")
    given = parser.parse_args()
    if given.repeat < 1 or not least <= given.nested <= CONFIGURATIONS:
        parser.error(
            f"--repeat is at least 1, --nested {least} to {CONFIGURATIONS} (one wave is no steady state)"
        )
    if given.quick and given.only:
        parser.error("--quick has a regime of its own; leave --only away")
    return given


if __name__ == "__main__":
    main()

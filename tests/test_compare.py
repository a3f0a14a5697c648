"""Several runs side by side: curves, configurations in common and differences worked by hand; the command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import DESKTOP, PHONE, chromium, complaints, needs_chromium, overflow, requests, show
from toy_run import SPACE, message, toy_run, toy_space

from search.cli import main
from search.comparability import warnings_of
from search.compare import Searched, compare, metric_of
from search.compare_page import comparison_page
from search.compare_plots import curves_data
from search.compare_reading import read_searched
from search.errors import BadInput
from search.page import plain
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space, load_space

VERSIONS = {"versions": {"torch": "2.13.0", "loss-search": "0.1.0"}, "git_commit": "aaa"}


def row(trial: int, weight: float, state: str = "COMPLETE", **more: Any) -> dict[str, Any]:
    told = {"phase": "search", "trial": trial, "state": state, "preset": None, "seed": 3, "seconds": 2.0}
    settings = {"knob.penalty.weight": weight, "knob.penalty.schedule": "constant", "static.width": 4}
    return {**told, **settings, **more}


def searched(
    space: Space,
    trials: list[dict[str, Any]],
    curves: dict[int, list[float]],
    name: str = "a",
    **more: Any,
) -> Searched:
    """A finished run whose trials reported one after the other."""
    reported = [
        (trial, epoch, value)
        for trial, values in curves.items()
        for epoch, value in enumerate(values, start=1)
    ]
    told = {"environment": VERSIONS, "word": "finished", "finished": True, "wanted": len(trials)}
    return Searched(name, f"runs/{name}", space, trials, reported, **{**told, **more})


def two(folder: Path, **more: Any) -> dict[str, Any]:
    """A has 6 epochs and ends at 0.9, B 4 and ends at 0.7; they share the weights 0.1 and 0.5."""
    space = toy_space(folder)
    a = searched(
        space,
        [row(0, 0.1, preset="habit"), row(1, 0.5), row(2, 0.9)],
        {0: [0.5, 0.6], 1: [0.7, 0.65], 2: [0.8, 0.9]},
    )
    b = searched(
        space, [row(0, 0.5), row(1, 0.1, preset="habit")], {0: [0.4, 0.7], 1: [0.65, math.nan]}, "b", **more
    )
    return compare([a, b], "selection_accuracy", 1.0)


# ---------------------------------------------------------------------- scores and curves


def test_each_run_has_its_best_trial_its_best_preset_and_its_cost(tmp_path: Path) -> None:
    a, b = two(tmp_path)["runs"]
    assert (a["best"]["trial"], a["best"]["value"], a["best"]["epoch"]) == (2, 0.9, 2)
    assert a["best"]["settings"] == {"penalty.weight": 0.9, "penalty.schedule": "constant"}
    assert (a["preset"]["preset"], a["preset"]["value"]) == ("habit", 0.6)
    assert (b["preset"]["value"], b["epochs"], b["seconds"]) == (0.65, 4, 4.0)
    assert a["trials"] == {"ended": 3, "wanted": 3, "states": {"COMPLETE": 3}}
    assert a["confirmed"] is None


def test_curves_are_read_at_the_epochs_that_all_runs_spent(tmp_path: Path) -> None:
    facts = two(tmp_path)
    assert facts["curves"][0]["epochs"] == [1, 2, 3, 5, 6]
    assert facts["curves"][1]["best"] == [0.4, 0.7]
    budget = facts["budget"]
    assert budget["epochs"] == 4  # B's
    assert [(one["epochs"], one["values"]) for one in budget["at"]] == [
        (1, [0.5, 0.4]),
        (2, [0.6, 0.7]),
        (4, [0.7, 0.7]),
    ]
    # Both reached 0.7: A with its third epoch, B with its second.
    assert (budget["target"], budget["needed"]) == (0.7, [3, 2])


def test_a_pruned_trial_moves_no_curve_while_another_is_complete(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    curves = {0: [0.9], 1: [0.5, 0.6]}
    mixed = searched(space, [row(0, 0.1, "PRUNED"), row(1, 0.5)], curves)
    pruned = searched(space, [row(0, 0.1, "PRUNED"), row(1, 0.5, "RUNNING")], curves, "b")
    facts = compare([mixed, pruned], "selection_accuracy", 1.0)
    assert facts["curves"][0]["best"] == [0.5, 0.6] and facts["runs"][0]["best"]["value"] == 0.6
    assert facts["curves"][1]["best"] == [0.9] and facts["runs"][1]["best"]["state"] == "PRUNED"


def test_a_metric_that_is_better_when_lower_is_read_the_other_way(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    a = searched(space, [row(0, 0.1)], {0: [0.5, 0.3, 0.4]})
    b = searched(space, [row(0, 0.1)], {0: [0.35, 0.6, 0.2]}, "b")
    facts = compare([a, b], "error", -1.0)
    assert [run["best"]["value"] for run in facts["runs"]] == [0.3, 0.2]
    assert facts["curves"][0]["best"] == [0.5, 0.3]
    assert (facts["budget"]["target"], facts["budget"]["needed"]) == (0.3, [2, 3])


def test_a_run_without_any_value_is_shown_and_compared_with_nothing(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    facts = compare(
        [searched(space, [row(0, 0.1)], {0: [0.5]}), searched(space, [], {}, "b")],
        "selection_accuracy",
        1.0,
    )
    assert facts["runs"][1]["best"] is None
    assert facts["budget"] == {"epochs": 0, "at": [], "target": None, "needed": [None, None]}


# ---------------------------------------------------------------------- configurations in common


def test_configurations_in_common_are_matched_by_their_settings_whatever_their_numbers(
    tmp_path: Path,
) -> None:
    facts = two(tmp_path)
    habit, other = facts["common"]
    assert habit["settings"] == {"penalty.weight": 0.1} and habit["preset"] == "habit"
    assert habit["values"] == [0.6, 0.65] and [one[0]["trial"] for one in habit["trials"]] == [0, 1]
    assert other["values"] == [0.7, 0.7]
    (agreement,) = facts["agreement"]
    assert (agreement["configurations"], agreement["equal"]) == (2, 1)
    assert agreement["mean"] == pytest.approx(0.025) and agreement["high"] == pytest.approx(0.05)
    assert agreement["sd"] == pytest.approx(0.05 / math.sqrt(2))


def test_a_pruned_trial_is_named_and_counts_for_no_difference(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    a = searched(space, [row(0, 0.1)], {0: [0.5, 0.6]})
    b = searched(space, [row(0, 0.1, "PRUNED")], {0: [0.9]}, "b")
    facts = compare([a, b], "selection_accuracy", 1.0)
    assert facts["common"][0]["values"] == [0.6, None]
    assert facts["agreement"][0]["configurations"] == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": {"source": "synthetic", "size": 128}}, "the runs read other data"),
        ({"budget": {"trials": 6, "epochs": 8}}, "a trial's full budget differs"),
    ],
)
def test_with_other_data_or_another_budget_no_configuration_is_the_same(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    a = searched(toy_space(tmp_path), [row(0, 0.1)], {0: [0.5]})
    b = searched(toy_space(tmp_path, **changes), [row(0, 0.1)], {0: [0.5]}, "b")
    facts = compare([a, b], "selection_accuracy", 1.0)
    assert facts["common"] == [] and facts["why_none_in_common"].startswith(why)
    assert any(warning.startswith(("other data", "other full budgets")) for warning in facts["warnings"])


# ---------------------------------------------------------------------- warnings and differences


def test_other_seeds_objectives_versions_and_unfinished_runs_are_warned_of(tmp_path: Path) -> None:
    a = searched(toy_space(tmp_path), [row(0, 0.1)], {0: [0.5]})
    changed = toy_space(tmp_path, objective="error", search={"sampler": "random", "seed": 4})
    b = searched(
        changed,
        [row(0, 0.1)],
        {0: [0.5]},
        "b",
        environment={**VERSIONS, "versions": {"torch": "2.12.0", "loss-search": "0.1.0"}},
        word="stopped, resumable",
        finished=False,
        wanted=6,
    )
    facts = compare([a, b], "selection_accuracy", 1.0)
    said = "\n".join(facts["warnings"])
    for part in (
        "other objectives (a selection_accuracy, b error)",
        "other seeds",
        "b is not finished (stopped, resumable, 1 of 6 trials ended)",
        "other versions of torch",
        "no run is confirmed",
    ):
        assert part in said
    told = {one["what"]: one["values"] for one in facts["differences"]}
    assert told["search.seed"] == [3, 4] and told["version of torch"] == ["2.13.0", "2.12.0"]
    assert told["objective"] == ["selection_accuracy", "error"]
    assert "git commit" not in told and "knobs.penalty.weight" not in told


def test_a_run_of_which_no_versions_are_known_is_compared_all_the_same(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    a = searched(space, [], {})
    b = searched(space, [], {}, "b", environment={"versions": None, "git_commit": "bbb"})
    facts = compare([a, b], "error", -1.0)
    told = {one["what"]: one["values"] for one in facts["differences"]}
    assert told["version of torch"] == ["2.13.0", None] and told["git commit"] == ["aaa", "bbb"]
    assert any("other versions of torch" in warning for warning in facts["warnings"])


def test_differences_name_the_knob_its_ranges_and_what_only_one_run_has(tmp_path: Path) -> None:
    a = searched(toy_space(tmp_path), [], {})
    knobs = {**SPACE["knobs"], "penalty.weight": {"float": [0.01, 1.0], "log": True}}
    b = searched(
        toy_space(tmp_path, knobs=knobs, start_from=SPACE["start_from"][:1], stop={"plateau": "off"}),
        [],
        {},
        "b",
    )
    told = {one["what"]: one["values"] for one in compare([a, b], "error", -1.0)["differences"]}
    assert json.loads(told["knobs.penalty.weight"][0]) == {"float": [0.001, 1.0], "log": True}
    assert json.loads(told["knobs.penalty.weight"][1])["float"] == [0.01, 1.0]
    assert told["start_from.bold [red]"][1] is None
    assert told["stop.prune"][0] == "off"


def test_a_data_file_is_the_same_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]

    def run(path: Path, digest: str | None) -> Searched:
        data = {**space.data, "source": "file", "path": str(path)}
        about = {**VERSIONS, **({"data_sha256": digest} if digest else {})}
        return searched(replace(space, data=data), [], {}, path.stem, environment=about)

    def about_data(*runs: Searched) -> list[str]:
        return [line for line in warnings_of(runs, "selection_accuracy") if "data" in line]

    assert "same content" in about_data(run(paths[0], "ab"), run(paths[1], "ab"))[0]
    assert about_data(run(paths[0], "ab"), run(paths[0], "cd"))[0].startswith("other data")
    assert about_data(run(paths[0], None), run(paths[1], None))[0].startswith("other data")
    assert about_data(run(paths[0], None), run(paths[0], "ab")) == []


# ---------------------------------------------------------------------- metrics


def test_a_metric_is_one_of_the_family_that_has_a_better_side(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    assert metric_of([space], None) == ("selection_accuracy", 1.0)
    assert metric_of([space], "error") == ("error", -1.0)
    with pytest.raises(BadInput, match="has no better side"):
        metric_of([space], "code_scale")
    with pytest.raises(BadInput, match="Did you mean 'error'?"):
        metric_of([space], "eror")


# ---------------------------------------------------------------------- real run directories


def test_what_is_read_of_a_run_is_in_the_order_of_its_reports(tmp_path: Path) -> None:
    directory = Run.create(toy_space(tmp_path), tmp_path / "runs")
    space = load_space(str(directory.space))
    with directory.locked(), Run(directory, space) as run:
        for _ in range(2):
            run.next_trial()
        for trial, epoch, value in ((1, 1, 0.6), (0, 1, 0.5), (0, 2, 0.7), (1, 2, 0.65)):
            run.receive(message(trial, epoch, value))
        run.close()
    found = read_searched(directory, space, "selection_accuracy")
    assert found.reported == [(1, 1, 0.6), (0, 1, 0.5), (0, 2, 0.7), (1, 2, 0.65)]
    assert (found.word, found.finished, found.wanted) == ("stopped, resumable", False, 6)
    directory.events.unlink()  # then Parquet is what is left
    assert read_searched(directory, space, "error").reported == [
        (0, 1, 0.5),
        (0, 2, pytest.approx(0.3)),
        (1, 1, 0.4),
        (1, 2, 0.35),
    ]


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_command_compares_two_runs_and_writes_what_it_is_asked_for(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    one, _ = toy_run(here / "runs")
    other, _ = toy_run(here / "runs", trials=3, search={"sampler": "random", "seed": 4})
    assert main(["compare", one.name, other.name, "--csv", "tables"]) == 0
    said = capsys.readouterr().out
    assert "2 runs of tiny_family:TINY, by selection_accuracy (higher is better)" in said
    assert f"warning: {other.name} is not finished (stopped, resumable, 3 of 6 trials ended)" in said
    assert "B - A: equal to the last digit." in said  # habit collapses in both
    assert "search.seed  3  4" in said
    scores = read(here / "tables" / "scores.csv")
    assert [row["run"] for row in scores] == [one.name, other.name]
    assert float(scores[0]["best"]) == 0.9 and scores[0]["best_trial"] == "2"
    common = read(here / "tables" / "configurations.csv")
    assert {row["preset"] for row in common} == {"habit", "bold [red]"}
    assert {path.name for path in (here / "tables").iterdir()} == {
        "scores.csv", "curves.csv", "configurations.csv", "differences.csv",
    }  # fmt: skip


def test_json_holds_everything_and_nothing_else_is_printed(here: Path, capsys: pytest.CaptureFixture) -> None:
    one, _ = toy_run(here / "runs")
    other, _ = toy_run(here / "runs")
    assert main(["compare", one.name, str(other.path), "--json", "--metric", "error"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["metric"], facts["direction"]) == ("error", "minimize")
    assert facts["differences"] == []
    assert facts["agreement"][0]["equal"] == facts["agreement"][0]["configurations"] > 0


def other_family(folder: Path) -> RunDirectory:
    (folder / "vae.yaml").write_text(
        yaml.safe_dump(
            {
                "family": "beta_vae",
                "budget": {"trials": 2, "epochs": 2},
                "knobs": {"kl.weight": {"float": [0.1, 1.0]}},
            }
        )
    )
    return Run.create(load_space(folder / "vae.yaml"), folder / "runs")


WRONG = {
    "one run": (["{a}"], "1 run given; it takes 2 to 12"),
    "the same run twice": (["{a}", "runs/{a}"], "given twice"),
    "no such run": (["{a}", "nowhere"], "nowhere: no such run directory"),
    "another family": (["{a}", "{vae}"], "is of family beta_vae, but {a} is of tiny_family:TINY"),
    "a metric of nobody": (["{a}", "{b}", "--metric", "eror"], "Did you mean 'error'?"),
    "a full directory": (["{a}", "{b}", "--csv", "full"], "--csv full: is not empty"),
    "a file as directory": (["{a}", "{b}", "--csv", "file"], "--csv file: is a file"),
    "a page that is there": (["{a}", "{b}", "--html", "file"], "--html file: exists"),
    "a page below a file": (["{a}", "{b}", "--html", "file/page.html"], "file is no directory"),
    "a directory as page": (["{a}", "{b}", "--html", "full"], "--html full: is a directory"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_ends_with_2_one_message_and_nothing_written(
    case: str, here: Path, capsys: pytest.CaptureFixture
) -> None:
    names = {
        "a": toy_run(here / "runs", trials=1)[0].name,
        "b": toy_run(here / "runs", trials=1)[0].name,
        "vae": other_family(here).name,
    }
    (here / "full").mkdir()
    (here / "full" / "other").write_text("kept")
    (here / "file").write_text("kept")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    arguments, message = WRONG[case]
    assert main(["compare", *(word.format(**names) for word in arguments)]) == 2
    told = capsys.readouterr()
    assert message.format(**names) in told.err and told.out == ""
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


# ---------------------------------------------------------------------- the page


def test_the_curves_stop_where_the_shortest_run_does_and_the_sentence_says_who_leads(tmp_path: Path) -> None:
    data = curves_data(two(tmp_path), ["A a", "B b"])
    assert data.budget == 4
    assert data.epochs == [[1, 2, 3], [1, 2]] and data.best == [[0.5, 0.6, 0.7], [0.4, 0.7]]
    assert data.sentence == (
        "After the 4 epochs that all runs spent, A a and B b are level at 0.7. All reached 0.7: B b after 2 "
        "epochs, the last after 3."
    )


def test_a_page_is_written_whole_with_every_name_as_text(here: Path) -> None:
    hostile = [{"name": "<img src=x onerror=alert(1)>", "penalty.weight": 0.5}]
    one, _ = toy_run(here / "runs", start_from=hostile)
    other, _ = toy_run(here / "runs", start_from=hostile)
    assert main(["compare", one.name, other.name, "--html", "pages/compare.html"]) == 0
    text = (here / "pages" / "compare.html").read_text()
    assert "<img src=x" not in text and "&lt;img src=x" in text
    assert text.count("data:image/png;base64") == 1
    assert list((here / "pages").iterdir()) == [here / "pages" / "compare.html"]
    assert main(["compare", one.name, other.name, "--html", "pages/compare.html"]) == 2
    assert main(["compare", one.name, other.name, "--html", "pages/compare.html", "--force"]) == 0


@pytest.mark.slow
@needs_chromium
def test_the_page_fits_a_desk_and_a_phone_and_sorts_what_runs_have_in_common(tmp_path: Path) -> None:
    space, values = toy_space(tmp_path), [0.5, 0.7, 0.6, 0.8, 0.1, 0.3, 0.2, 0.9, 0.4, 0.35, 0.65, 0.15]
    trials = [row(number, value) for number, value in enumerate(values)]
    curves = {number: [value] for number, value in enumerate(values)}
    runs = [searched(space, trials, curves, name) for name in ("a", "b")]
    path = tmp_path / "compare.html"
    path.write_text(comparison_page(plain(compare(runs, "selection_accuracy", 1.0))))
    with chromium() as driver:
        for size in (DESKTOP, PHONE):
            show(driver, path, size)
            assert overflow(driver) <= 0 and complaints(driver) == [] and requests(driver) == []
        heads = driver.find_elements("css selector", "#configurations th button")
        ours = next(place for place, head in enumerate(heads) if head.text == "A")
        cells = f"#configurations tbody tr td:nth-child({ours + 1})"
        orders = []
        for _ in range(2):
            driver.execute_script("arguments[0].click()", heads[ours])
            orders.append([float(cell.text) for cell in driver.find_elements("css selector", cells)])
        assert sorted(orders) == [sorted(values), sorted(values, reverse=True)]
        assert complaints(driver) == []

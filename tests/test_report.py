"""The report of a run: what it says, whatever state the run is in."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile_family import KNOB
from made_study import make_study
from toy_run import play_confirmation, toy_run

from search.cli import main
from search.configuration import load_configuration
from search.confirm import Settings
from search.findings import gather
from search.record import Recorder, read_trials
from search.report import write_report
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space, load_space
from trainables import FAMILIES, family_named

HOSTILE = '</script><script>window.harm=1</script><img src=x onerror="window.harm=2">$\\frac{'


def page_of(directory: RunDirectory, space: Space) -> str:
    return write_report(gather(directory, space)).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees of a page, roughly: no scripts, no style, no tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


# ---------------------------------------------------------------------- files and words


def test_the_parts_stand_in_the_order_of_what_one_asks_first(study) -> None:
    found = headings((study[0].report / "index.html").read_text())
    expected = [
        "Recommendation", "What was searched, and what it cost", "Best so far", "Presets against the winner",
        "Which settings mattered", "All settings at once", "Learning curves", "Where trials collapse",
        "Trade-offs", "Pictures", "What to beware of", "All trials",
    ]  # fmt: skip
    assert found == expected


def test_every_figure_of_the_page_is_a_png_beside_it_with_a_sentence(study) -> None:
    directory, _ = study
    page = (directory.report / "index.html").read_text()
    shown = re.findall(r"id=\"figure-(\w+)\"", page)
    assert len(shown) == len(set(shown)) >= 5
    assert {f"{name}.png" for name in shown} == {path.name for path in directory.report.glob("*.png")}
    sentences = json.loads((directory.report / "summary.json").read_text())["sentences"]
    assert sentences.keys() == set(shown)
    assert all(sentence.endswith(".") for sentence in sentences.values())
    computed = [text for name, text in sentences.items() if not name.startswith("effect_")]
    assert all(re.search(r"\d", text) for text in computed), "an effect may be said not to stand out"


def test_the_page_needs_no_other_file_and_no_network(study) -> None:
    page = (study[0].report / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "http:" not in text_of(page) and "@import" not in page and "url(" not in page


def test_the_recommended_configuration_is_the_best_trials_and_can_be_trained(study) -> None:
    directory, _ = study
    summary = json.loads((directory.report / "summary.json").read_text())
    recommended = load_configuration(directory.report / "recommended.yaml", "beta_vae")
    best = load_configuration(directory.trial(summary["best"]["trial"]) / "config.yaml", "beta_vae")
    assert recommended.knobs == best.knobs and recommended.static == best.static


def test_the_page_tells_how_sure_the_recommendation_is_and_what_to_do_next(study) -> None:
    text = text_of((study[0].report / "index.html").read_text())
    summary = json.loads((study[0].report / "summary.json").read_text())
    assert (
        f"Use trial {summary['best']['trial']} with selection_accuracy {summary['best']['value']:.4f}" in text
    )
    assert "Not confirmed. Each trial ran once" in text
    assert "loss-search confirm " in text and "loss-search train beta_vae --config " in text


def test_costs_are_those_of_the_record(study) -> None:
    directory, _ = study
    rows = read_trials(directory.path).to_pylist()
    cost = json.loads((directory.report / "summary.json").read_text())["cost"]
    assert cost["epochs"] == sum(row["epochs"] for row in rows)
    assert cost["most_epochs"] == 28 * 20
    assert cost["training_s"] == pytest.approx(0.75 * cost["epochs"])
    assert cost["engines"] == 2


def test_the_table_has_every_trial_with_its_settings(study) -> None:
    directory, space = study
    page = (directory.report / "index.html").read_text()
    stored = json.loads(re.search(r'id="trials-data">(.*?)</script>', page, re.DOTALL)[1])
    names = [column["name"] for column in stored["columns"]]
    assert len(stored["rows"]) == 28 and set(space.searched()) <= set(names)
    rows = {row["trial"]: row for row in read_trials(directory.path).to_pylist()}
    for line in stored["rows"]:
        cells = dict(zip(names, line, strict=True))
        assert cells["kl.weight"] == pytest.approx(rows[cells["trial"]]["knob.kl.weight"], rel=1e-5)


def test_summary_csv_has_a_line_a_trial(study) -> None:
    with (study[0].report / "summary.csv").open(newline="") as file:
        assert [line["trial"] for line in csv.DictReader(file)] == [str(n) for n in range(28)]


def test_pictures_of_the_best_the_median_and_a_collapsed_trial_stand_side_by_side(study) -> None:
    text = text_of((study[0].report / "index.html").read_text())
    part = text[text.index("Pictures", text.index("Learning curves")) :]
    roles = ("Best trial", "Median complete trial", "Collapsed trial")
    best, median, collapsed = map(part.index, roles)
    assert best < median < collapsed and re.search(r"Collapsed trial \d+, .*? (mode|posterior)", part)


def test_the_report_is_the_same_whether_it_is_written_once_or_twice(study) -> None:
    directory, space = study
    before = {path.name: path.read_bytes() for path in directory.report.iterdir()}
    write_report(gather(directory, space))
    assert {path.name: path.read_bytes() for path in directory.report.iterdir()} == before


def test_what_was_warned_of_before_the_search_is_said_again(study, tmp_path) -> None:
    directory, space = make_study(tmp_path, 4)
    write_report(gather(directory, space))
    summary = json.loads((directory.report / "summary.json").read_text())
    summary |= {"warnings": ["nobody reads warnings"], "chance": 0.093}
    (directory.report / "summary.json").write_text(json.dumps(summary))
    text = text_of(page_of(directory, space))
    assert "nobody reads warnings" in text and "guessing" in text
    assert json.loads((directory.report / "summary.json").read_text())["chance"] == 0.093


def test_traps_are_told_before_the_search_has_said_any(tmp_path) -> None:
    directory, space = make_study(tmp_path, 4)  # fewer than tpe's first random ones
    assert "no learning" in text_of(page_of(directory, space))
    assert "no learning" in text_of(page_of(directory, space)), "and again"
    summary = json.loads((directory.report / "summary.json").read_text())
    (directory.report / "summary.json").write_text(json.dumps(summary | {"warnings": []}))
    assert "no learning" not in text_of(page_of(directory, space)), (
        "a quick test is not told that it is short"
    )


def test_the_command_says_where_the_page_is(study, capsys, monkeypatch) -> None:
    directory, _ = study
    monkeypatch.chdir(directory.path.parent)
    assert main(["report", directory.name, "--out", "."]) == 0
    said = capsys.readouterr().out
    assert f"{directory.name}/report/index.html: open it in a browser" in said
    assert re.search(r"beside it: \d+ figures as PNG, recommended.yaml, summary.csv, summary.json", said)


def test_a_run_that_is_not_there_is_bad_input(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "nothing"]) == 2


def test_what_was_planted_is_found(study) -> None:
    text = text_of((study[0].report / "index.html").read_text())
    sentences = json.loads((study[0].report / "summary.json").read_text())["sentences"]
    assert sentences["importance"].startswith(("kl.weight", "class_weights.method"))
    assert "class_weights.method is none" in sentences["collapse_1"] and "Mode collapse: where" in text


def test_the_settings_stand_in_the_order_of_their_importance(study) -> None:
    page = (study[0].report / "index.html").read_text()
    stored = json.loads(re.search(r'id="parallel-data">(.*?)</script>', page, re.DOTALL)[1])
    summary = json.loads((study[0].report / "summary.json").read_text())
    ranked = [knob["name"] for knob in summary["importance"]]
    free = [name for name in ranked if not study[1].parameters[name].when]
    assert [axis["name"] for axis in stored["axes"]][1 : len(free) + 1] == free
    effects = re.findall(r'<figure id="figure-effect_\d+" class="">\s*<h3>(.*?)</h3>', page)
    assert effects == [name for name in ranked if name in effects] and {"kl.weight", "optim.lr"} <= set(
        effects
    )
    assert all(0 <= knob["low"] <= knob["high"] <= 1 for knob in summary["importance"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_metrics_that_a_family_weighs_have_a_better_side(name) -> None:
    family = family_named(name)
    assert len(family.trade_off) == 2
    assert all(family.metrics[metric].higher_is_better is not None for metric in family.trade_off)


# ---------------------------------------------------------------------- confirmed


def test_a_confirmed_run_says_how_sure_it_is_by_fresh_seeds_on_the_test_split(tmp_path) -> None:
    directory, space = confirmed_run(
        tmp_path, lambda source, index: (0.9 if source == 2 else 0.7) + 0.01 * index
    )
    page = page_of(directory, space)
    summary = json.loads((directory.report / "summary.json").read_text())
    text = html.unescape(text_of(page))
    assert f"Use trial 2: it {summary['conclusion']['sentence'].removeprefix('trial 2 ')}." in text
    assert re.search(
        r"Use trial 2: it beats bold \[red\] by 0\.20+, 95 % interval [\d.]+ to [\d.]+, 5 seeds", text
    )
    assert "Not confirmed" not in text and "optimism of the search" in text
    assert "Confirmed with fresh seeds, on the test split that the search never saw" in text
    assert "loss-search confirm" not in text, "there is nothing left to confirm"
    assert "confirmation 40 epochs 10 trials of fresh seeds" in text
    assert load_configuration(directory.report / "recommended.yaml", space.family_name).source == "trial 2"


def test_without_a_reliable_difference_the_preset_is_kept(tmp_path) -> None:
    directory, space = confirmed_run(
        tmp_path, lambda source, index: 0.7 + 0.03 * ((index * (source + 1)) % 4)
    )
    text = html.unescape(text_of(page_of(directory, space)))
    assert "No reliable difference: keep bold [red]" in text
    assert load_configuration(directory.report / "recommended.yaml", space.family_name).source == "trial 1"


def test_a_confirmation_that_has_not_ended_is_told_beside_the_caution(tmp_path) -> None:
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=5)) as run:
        play_confirmation(run, lambda source, index: 0.7, trials=2)
        run.close()
    text = html.unescape(text_of(page_of(directory, space)))
    assert "Not confirmed." in text and "Its confirmation has not ended; so far: " in text
    assert "loss-search confirm" in text


def confirmed_run(tmp_path: Path, score: Any) -> tuple[RunDirectory, Space]:
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=5)) as run:
        play_confirmation(run, score)
        run.close()
    return directory, space


# ---------------------------------------------------------------------- any state of a run


@pytest.mark.parametrize("ended", [0, 1, 2, 5])
def test_a_report_can_be_written_while_few_trials_have_ended(tmp_path, ended) -> None:
    directory, space = make_study(tmp_path, 28, ended=ended)
    with directory.locked():
        text = text_of(page_of(directory, space))
    assert f"The search is going on: {ended} of 28 trials have ended" in text
    assert not any(path.name.startswith(".") and path.suffix == ".tmp" for path in directory.report.iterdir())


def test_a_report_before_the_first_trial_says_that_there_is_nothing_yet(tmp_path) -> None:
    space = load_space("beta_vae")
    directory = Run.create(space, tmp_path)
    text = text_of(page_of(directory, space))
    assert "There is nothing to recommend yet" in text and "No trial has started yet." in text
    assert not (directory.report / "recommended.yaml").exists()


def test_a_search_that_was_stopped_says_so(tmp_path) -> None:
    directory, space = make_study(tmp_path, 28, ended=3)
    assert "The search stopped after 3 of 28 trials; it can be resumed." in text_of(page_of(directory, space))


def test_a_run_in_which_every_trial_failed_shows_the_first_error(tmp_path) -> None:
    directory, space = make_study(tmp_path, 2)
    rows = [
        {
            "trial": n,
            "state": "FAIL",
            "stop_reason": "raised",
            "seed": n,
            "epochs": 0,
            "error": f"Boom: <b>{n}",
        }
        for n in range(2)
    ]
    Recorder(directory.path, {}).write_trials(rows)
    text = text_of(page_of(directory, space))
    assert "The first error: Boom: &lt;b&gt;0" in text


def test_a_grid_and_several_objectives_have_reports(tmp_path) -> None:
    path = tmp_path / "grid.yaml"
    knobs = {
        "reconstruction.gamma": {"choice": [0.0, 2.0]},
        "class_weights.method": {"choice": ["none", "inverse"]},
    }
    space = {
        "family": "beta_vae", "budget": {"trials": 4, "epochs": 5}, "search": {"sampler": "grid"},
        "knobs": knobs,
        "objective": ["selection_accuracy", "pixel_accuracy"], "static": {"latent_dim": {"choice": [8, 16]}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(space))
    directory, asked = make_study(tmp_path / "runs", 8, space=load_space(path))
    page = page_of(directory, asked)
    stored = json.loads(re.search(r'id="parallel-data">(.*?)</script>', page, re.DOTALL)[1])
    assert [axis["name"] for axis in stored["axes"]] == [
        "selection_accuracy", "pixel_accuracy", "latent_dim", "reconstruction.gamma", "class_weights.method",
    ]  # fmt: skip


def test_where_less_is_better_the_smallest_is_the_best_and_gains_are_positive(tmp_path) -> None:
    text = text_of(page_of(*toy_run(tmp_path / "runs", objective="error")))
    assert "Use trial 2 with error 0.1000 on validation data, 0.2 better than the best preset" in text
    assert "lower is better" in text and "+0.200" in text
    assert "From 0.3000 after 8 epochs to 0.1000 after 16" in text


def test_nothing_of_the_process_environment_is_in_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("A_SECRET_KEY", "tell-nobody-4711")
    directory, space = make_study(tmp_path, 3)
    page_of(directory, space)
    for path in directory.report.iterdir():
        assert b"tell-nobody-4711" not in path.read_bytes()


def test_a_report_of_ones_own_family_with_conditional_knobs(tmp_path) -> None:
    directory, space = toy_run(tmp_path / "runs")
    page = page_of(directory, space)
    stored = json.loads(re.search(r'id="parallel-data">(.*?)</script>', page, re.DOTALL)[1])
    start = [axis["name"] for axis in stored["axes"]].index("penalty.start")
    assert None in stored["values"][start], "not in force: a gap"
    assert "bold [red]" in page


def test_a_picture_that_is_a_link_is_not_followed(tmp_path) -> None:
    directory, space = make_study(tmp_path / "runs", 3)
    secret = tmp_path / "secret.png"
    picture = next((directory.trial(1) / "figures").iterdir())
    secret.write_bytes(picture.read_bytes() + b"secret")
    for number in range(3):
        for path in (directory.trial(number) / "figures").iterdir():
            path.unlink()
            path.symlink_to(secret)
    assert "No trial has a picture yet." in text_of(page_of(directory, space))


def test_text_of_others_is_never_markup(tmp_path) -> None:
    page = page_of(*hostile_study(tmp_path))
    assert "<img src=x" not in page and "<script>window" not in page


def hostile_study(tmp_path: Path) -> tuple[RunDirectory, Space]:
    """A study whose family, presets and errors are attacks."""
    path = tmp_path / "hostile.yaml"
    start = [{"name": HOSTILE, "optim.lr": 0.1}, {"name": "$x$\n\U0001f600\u4e2d", "optim.lr": 0.2}]
    space = {
        "family": "hostile_family:HOSTILE", "budget": {"trials": 12, "epochs": 4}, "start_from": start,
        "knobs": {"optim.lr": {"float": [0.01, 1.0]}, KNOB: {"choice": ["a", KNOB]}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(space))
    directory, asked = make_study(tmp_path / "runs", 12, space=load_space(path), pictures=False)
    rows = [{**row, "error": HOSTILE} for row in read_trials(directory.path).to_pylist()]
    Recorder(directory.path, {}).write_trials(rows)
    return directory, asked

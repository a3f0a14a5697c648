"""Searches on a cluster of several nodes: real raylets on this machine, one of them killed."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from local_cluster import LocalCluster
from searches import end_all, events_of, only_run, run, start, ticks, wait_for_rows, write_space
from test_search import whole

TOKEN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:10001", "a search cannot run through Ray Client"),
        ("http://127.0.0.1:8265", "is a dashboard; `loss-search submit SPACE"),
        ("somewhere", "must be auto, or HOST:PORT of the head"),
        ("127.0.0.1:9", "nothing answers at 127.0.0.1:9"),
    ],
)
def test_an_address_that_no_search_can_use_is_refused_with_what_to_do(tmp_path, address, said):
    output = run("run", write_space(tmp_path), "--address", address, cwd=tmp_path, expect=2)
    assert said in output
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(nodes=2, token=TOKEN) as started:
        before = {name: os.environ.get(name) for name in started.settings}
        os.environ.update(started.settings)
        try:
            yield started
        finally:
            end_all()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def outcomes(run_dir: Path) -> list[dict]:
    """What a search decided and measured, without what names the hour or the place."""
    rows = pq.read_table(run_dir / "trials.parquet").to_pylist()
    changing = ("_at", "seconds", "engine", "retries")
    return [{k: v for k, v in row.items() if not k.endswith(changing)} for row in rows]


@pytest.mark.slow
def test_a_cluster_gives_the_trials_and_results_of_one_machine_whatever_the_workers(tmp_path, cluster):
    found = {}
    for place, options in {
        "here": (),
        "there": ("--address", cluster.address),
        "two nodes": ("--address", cluster.address, "--workers-per-engine", 2),
    }.items():
        folder = tmp_path / place
        folder.mkdir()
        space = write_space(
            folder, budget={"trials": 3, "epochs": 3}, search={"sampler": "random", "seed": 1}
        )
        run("run", space, "--engines", 1, "--slots", 1, *options, cwd=folder)
        found[place] = outcomes(only_run(folder))
        whole(only_run(folder), trials=3)
    assert found["there"] == found["here"]
    for ours, alone in zip(found["two nodes"], found["here"], strict=True):
        for name, value in alone.items():
            if isinstance(value, float):
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.slow
def test_a_wrong_token_is_refused_in_one_line(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
    said = run("run", write_space(tmp_path), "--address", cluster.address, cwd=tmp_path, expect=2)
    (line,) = said.splitlines()
    assert line.startswith(f"--address {cluster.address}: the cluster refuses this user's token")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_nodes_that_die_leave_and_join_cost_no_trial(tmp_path, cluster):
    """One of two nodes is killed, one joins, one is drained: nothing that was reported is lost."""
    space = write_space(
        tmp_path, budget={"trials": 6, "epochs": 25}, data={"source": "synthetic", "size": 2048}
    )
    process = start("run", space, "--address", cluster.address, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, 8)
    engines_at_work(run_dir, 2)
    before = len(events_of(run_dir, "reported"))
    cluster.kill(cluster.nodes.pop())
    cluster.nodes.append(cluster.add())
    for _ in ticks():
        if len(events_of(run_dir, "reported")) > before + 8:
            break
    assert cluster.drain(cluster.nodes[0]) == "drains"
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "is gone; others continue what it trained" in output
    assert "has joined" in output
    assert "will go soon; its trials move" in output
    whole(run_dir, trials=6)
    assert {row["state"] for row in pq.read_table(run_dir / "trials.parquet").to_pylist()} == {"COMPLETE"}


def engines_at_work(run_dir: Path, count: int) -> None:
    for _ in ticks():
        if len({event["row"]["engine"] for event in events_of(run_dir, "reported")}) >= count:
            return
    raise AssertionError("not all engines came to work")

"""TensorBoard's files, read back by TensorBoard itself: its accumulator, and its server over HTTP."""

from __future__ import annotations

import errno
import json
import math
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search.board import TrialBoard, write_experiment

ROOT = Path(__file__).parents[1]


def row(epoch: int, **more) -> dict:
    return {
        "trial": 3,
        "epoch": epoch,
        "engine": "engine-0",
        "slot": 2,
        "lr": 1e-3,
        "val.selection_accuracy": epoch / 8,
        "train.reconstruction": 2.0,
        "weight.kl": 0.5,
        "active.kl": 128,
        "collapsed.mode": True,
        "collapsed.posterior": math.nan,
        "val.none": None,
        "vectors": {"kl_per_dim": [0.0, 0.5, 0.5, 2.0]},
        **more,
    }


def read(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def points(directory: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(directory).Scalars(tag)]


def test_a_rows_numbers_are_scalars_under_plain_names(tmp_path):
    with TrialBoard(tmp_path) as board:
        board.row(row(1))
        board.row(row(2))
        # Read while the board is open: every row is on disk when the call returns.
        assert points(tmp_path, "val/selection_accuracy") == [(1, 0.125), (2, 0.25)]
    assert sorted(read(tmp_path).Tags()["scalars"]) == [
        "active/kl",
        "collapsed/mode",
        "lr",
        "train/reconstruction",
        "val/selection_accuracy",
        "weight/kl",
    ]
    assert points(tmp_path, "collapsed/mode") == [(1, 1.0), (2, 1.0)]


def test_numbers_that_are_not_finite_or_too_large_do_not_stop_the_board(tmp_path):
    with TrialBoard(tmp_path) as board:
        board.row(row(1, **{"train.reconstruction": math.nan, "train.kl": math.inf, "grad_norm": 1e300}))
        board.row(
            row(2, vectors={"v": [math.nan, math.inf], "w": [-1e308, 1e308, 1e308], "x": [5e-324, 0.0]})
        )
    assert math.isnan(points(tmp_path, "train/reconstruction")[0][1])
    assert points(tmp_path, "train/kl") == [(1, math.inf)]
    assert points(tmp_path, "grad_norm") == [(1, math.inf)]
    assert set(read(tmp_path).Tags()["histograms"]) == {"kl_per_dim", "w", "x"}


def test_a_vector_is_a_histogram_that_counts_each_number_once(tmp_path):
    vector = [0.0, 0.5, 0.5, 2.0, 3.0]
    with TrialBoard(tmp_path) as board:
        board.row(row(4, vectors={"kl_per_dim": vector, "same": [0.25] * 3}))
    accumulator = read(tmp_path)
    (event,) = accumulator.Histograms("kl_per_dim")
    found = event.histogram_value
    assert event.step == 4
    assert (found.min, found.max, found.num, found.sum, found.sum_squares) == (0.0, 3.0, 5.0, 6.0, 13.5)
    assert sum(found.bucket) == 5
    left = [found.min, *found.bucket_limit[:-1]]
    for value in vector:  # in [left, right), the last one closed
        index = max(index for index, edge in enumerate(left) if edge <= value)
        assert found.bucket[index] == vector.count(value)
    assert found.bucket_limit[-1] == 3.0
    same = accumulator.Histograms("same")[0].histogram_value
    assert (list(same.bucket), list(same.bucket_limit)) == ([3.0], [0.25])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_a_picture_is_the_files_own_bytes_with_its_size(tmp_path, mode, channels):
    path = tmp_path / "picture.png"
    Image.new(mode, (7, 5)).save(path)
    with TrialBoard(tmp_path / "trial") as board:
        board.picture(path, "reconstructions", 3)
    (event,) = read(tmp_path / "trial").Images("reconstructions")
    assert event.encoded_image_string == path.read_bytes()
    assert (event.width, event.height, event.step) == (7, 5, 3)
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (file,) = (tmp_path / "trial").iterdir()
    last = Event.FromString(list(RawEventFileLoader(str(file)).Load())[-1])
    assert last.summary.value[0].image.colorspace == channels


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\x09" * 30]
)
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with TrialBoard(tmp_path / "trial") as board, pytest.raises(ValueError, match="is no PNG file"):
        board.picture(tmp_path / "x.png", "x", 1)


def test_a_resumed_board_continues_in_a_new_file_even_when_the_clock_jumped_back(tmp_path, monkeypatch):
    with TrialBoard(tmp_path) as board:
        board.row(row(1))
    first = board.path
    with first.open("ab") as file:
        file.write(b"\x20\x00\x00\x00torn")  # killed within a record
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    with TrialBoard(tmp_path) as board:
        board.row(row(2))
    assert board.path.name > first.name
    assert [step for step, _ in points(tmp_path, "lr")] == [1, 2]


def test_a_full_disk_raises_and_leaves_the_file_readable(tmp_path):
    with TrialBoard(tmp_path) as board:
        board.row(row(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (board.path.stat().st_size + 50, hard))
        try:
            with pytest.raises(OSError) as caught:
                board.row(row(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno == errno.EFBIG
        board.row(row(3))
    assert [step for step, _ in points(tmp_path, "lr")] == [1, 3]


def test_a_board_has_no_thread_and_closes_twice(tmp_path):
    before = threading.active_count()
    board = TrialBoard(tmp_path)
    board.row(row(1))
    assert threading.active_count() == before
    board.close()
    board.close()


def test_the_driver_needs_neither_torch_nor_tensorflow_for_its_record():
    code = (
        "import sys, search.board, search.record, search.events;"
        "print([m for m in ('torch', 'tensorflow', 'pandas', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def write_run(run_dir: Path) -> None:
    """Three trials: one complete, one diverged, one running without metrics yet."""
    write_experiment(
        run_dir,
        {
            "kl.weight": (1e-3, 4.0),
            "kl.schedule": ["constant", "linear"],
            "kl.start": None,
            "width": [64, 256],
        },
        ["best/selection_accuracy", "val/selection_accuracy"],
    )
    ends = [
        ({"best.selection_accuracy": 0.75}, "success"),
        ({"best.selection_accuracy": math.nan}, "failure"),
        None,
    ]
    for number, end in enumerate(ends):
        knobs = {
            "kl.weight": 0.5 + number,
            "kl.schedule": "linear" if number else "constant",
            "kl.start": 0.25 if number else None,
            "width": 64,
        }
        with TrialBoard(run_dir / "trials" / str(number)) as board:
            board.hparams(knobs)
            board.row(row(1))
            if end:
                board.hparams(knobs, *end)
                board.hparams(knobs, *end)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A TensorBoard on loopback over a run of three trials; gives its address."""
    run_dir = tmp_path_factory.mktemp("run")
    write_run(run_dir)
    code = (
        "import sys, time\n"
        "from tensorboard import program\n"
        "board = program.TensorBoard()\n"
        "board.configure(argv=[None, '--logdir', sys.argv[1], '--host', '127.0.0.1', '--port', '0'])\n"
        "print(board.launch(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(run_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def ask(server: str, path: str, body: dict | None = None):
    request = urllib.request.Request(
        f"{server}data/plugin/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def ask_until_loaded(server: str, path: str, loaded, body: dict | None = None):
    """TensorBoard reads its files in the background after it has started to answer."""
    until = time.monotonic() + 60
    while not loaded(found := ask(server, path, body)) and time.monotonic() < until:
        time.sleep(0.3)
    return found


def test_tensorboard_lists_the_declared_knobs_and_metrics(server):
    found = ask_until_loaded(server, "hparams/experiment", lambda answer: answer.get("hparamInfos"), {})
    infos = {info["name"]: info for info in found["hparamInfos"]}
    assert set(infos) == {"kl.weight", "kl.schedule", "kl.start", "width"}
    assert infos["kl.weight"]["domainInterval"] == {"minValue": 1e-3, "maxValue": 4.0}
    assert infos["kl.schedule"]["type"] == "DATA_TYPE_STRING"
    assert infos["kl.schedule"]["domainDiscrete"] == ["constant", "linear"]
    assert infos["width"]["type"] == "DATA_TYPE_FLOAT64"
    tags = [info["name"]["tag"] for info in found["metricInfos"]]
    assert tags == ["best/selection_accuracy", "val/selection_accuracy"]


def test_tensorboard_shows_one_row_a_trial_with_its_knobs_and_metrics(server):
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"hparam": "kl.weight", "order": "ORDER_ASC"}],
        "startIndex": 0,
        "sliceSize": 50,
    }
    found = ask_until_loaded(
        server, "hparams/session_groups", lambda answer: len(answer.get("sessionGroups", [])) == 3, body
    )
    groups = {group["sessions"][0]["name"]: group for group in found["sessionGroups"]}
    assert sorted(groups) == ["trials/0", "trials/1", "trials/2"]
    assert groups["trials/0"]["hparams"] == {"kl.weight": 0.5, "kl.schedule": "constant", "width": 64.0}
    assert groups["trials/1"]["hparams"]["kl.start"] == 0.25
    metrics = {
        name: {value["name"]["tag"]: value.get("value") for value in group.get("metricValues", [])}
        for name, group in groups.items()
    }
    assert metrics["trials/0"] == {"best/selection_accuracy": 0.75, "val/selection_accuracy": 0.125}
    assert metrics["trials/2"] == {"val/selection_accuracy": 0.125}
    states = {name: group["sessions"][0].get("status") for name, group in groups.items()}
    assert states["trials/0"] == "STATUS_SUCCESS"
    assert states["trials/1"] == "STATUS_FAILURE"
    assert states["trials/2"] == "STATUS_UNKNOWN"  # TensorBoard's word for a session without an end


def test_tensorboard_serves_the_scalars_of_a_trial(server):
    ask_until_loaded(server, "scalars/tags", lambda answer: "trials/2" in answer)
    points = ask(server, "scalars/scalars?run=trials/2&tag=val/selection_accuracy")
    assert [point[1:] for point in points] == [[1, 0.125]]


def test_an_unknown_status_is_refused(tmp_path):
    with (
        TrialBoard(tmp_path) as board,
        pytest.raises(ValueError, match="status='ok', allowed: success, failure"),
    ):
        board.hparams({}, {}, "ok")

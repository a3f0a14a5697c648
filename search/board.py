"""What TensorBoard shows of a run: one event file a trial, written by the driver without torch.

    train/reconstruction, val/selection_accuracy, weight/kl, lr, ...   one scalar an epoch
    kl_per_dim, ...                                                    one histogram an epoch
    figures                                                            images
    HParams                                                            one row a trial

TensorBoard's own `EventFileWriter` keeps a thread for each file and hides a full disk in it. Only its framing
is used here: each call appends one whole record with one `write`, so that a reader never meets half a row of
ours while the disk has space, and an error reaches the caller.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import struct_pb2
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from search.events import append_whole

__all__ = ["TrialBoard", "write_experiment"]

Domain = Sequence[Any] | tuple[float, float] | None

NO_SCALARS = ("trial", "epoch", "phase", "engine", "slot", "vectors")
NUM_BINS = 30
STATUSES = {
    "success": api_pb2.STATUS_SUCCESS,
    "failure": api_pb2.STATUS_FAILURE,
    "running": api_pb2.STATUS_RUNNING,
}
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # colour type of the IHDR chunk (PNG, third edition, 11.2.1)
EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\..*")


class TrialBoard:
    """The event file of one trial in `directory`, which is made when it is missing.

    A second board on the same directory (a resumed run) writes a second file, which TensorBoard reads after
    the first. Every method raises OSError when the disk is full and then leaves the file as it was before the
    call.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd, self.path = _new_event_file(self.directory)
        self._size, self._epoch = 0, 0
        self._has_start = self._has_end = False
        self._append(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def row(self, row: Mapping[str, Any]) -> None:
        """One epoch's row (see search/schema.py) at step `epoch`: numbers as scalars, vectors as histograms.

        The first `.` of a name becomes `/`. What is None, a word, or a collapse that was not judged has no
        point; NaN and infinities are drawn by TensorBoard as marks.
        """
        values = []
        for name, value in row.items():
            if name in NO_SCALARS or value is None or isinstance(value, str):
                continue
            if name.startswith("collapsed.") and math.isnan(value):
                continue
            values.append(summary_pb2.Summary.Value(tag=_tag(name), simple_value=float(value)))
        for name, vector in (row.get("vectors") or {}).items():
            histogram = _histogram(vector)
            if histogram is not None:
                values.append(summary_pb2.Summary.Value(tag=_tag(name), histo=histogram))
        self._epoch = row["epoch"]
        self._summarise(values, self._epoch)

    def picture(self, path_png: Path, tag: str, step: int) -> None:
        """A PNG file as an image. Raises ValueError for a file of another kind."""
        encoded = Path(path_png).read_bytes()
        if not encoded.startswith(PNG_HEAD) or len(encoded) < 26 or encoded[25] not in PNG_CHANNELS:
            raise ValueError(f"{path_png}: is no PNG file")
        width, height = struct.unpack(">II", encoded[16:24])
        image = summary_pb2.Summary.Image(
            width=width, height=height, colorspace=PNG_CHANNELS[encoded[25]], encoded_image_string=encoded
        )
        self._summarise([summary_pb2.Summary.Value(tag=tag, image=image)], step)

    def hparams(
        self, knobs: Mapping[str, Any], metrics: Mapping[str, float] | None = None, status: str = "success"
    ) -> None:
        """Enter the trial in the HParams table: its knobs once, and at its end its metrics once.

        Without `metrics` the trial shows with an unknown status; a later call with them (same knobs) ends it
        with `status`, one of success, failure and running. Knobs that are None are not in force and stay
        empty. A metric becomes a scalar under its name (first `.` to `/`) at the last epoch; names should not
        be those of a row's columns.
        """
        if status not in STATUSES:
            raise ValueError(f"{status=}, allowed: {', '.join(STATUSES)}")
        if not self._has_start:
            start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
            for name, value in knobs.items():
                if value is not None:
                    start.hparams[name].CopyFrom(_value(value))
            data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
            self._summarise([_plugin_value(metadata.SESSION_START_INFO_TAG, data)], 0)
            self._has_start = True
        if metrics is not None and not self._has_end:
            end = plugin_data_pb2.SessionEndInfo(status=STATUSES[status], end_time_secs=time.time())
            data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
            values = [
                summary_pb2.Summary.Value(tag=_tag(name), simple_value=float(value))
                for name, value in metrics.items()
                if value is not None
            ]
            self._summarise([*values, _plugin_value(metadata.SESSION_END_INFO_TAG, data)], self._epoch)
            self._has_end = True

    def close(self) -> None:
        """Close the file; a second call does nothing. Every call before has written its record already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> TrialBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _summarise(self, values: Iterable[summary_pb2.Summary.Value], step: int) -> None:
        summary = summary_pb2.Summary(value=values)
        self._append(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: event_pb2.Event) -> None:
        framed = io.BytesIO()
        RecordWriter(framed).write(event.SerializeToString())
        self._size = append_whole(self._fd, framed.getvalue(), self._size)


def write_experiment(directory: Path, hparams: Mapping[str, Domain], metrics: Iterable[str]) -> None:
    """Declare the HParams table of a run in its own event file in `directory` (TensorBoard's log directory).

    `hparams` gives each knob's domain: a list of choices, a tuple (low, high) of numbers, or None when
    unknown; `metrics` the tags to show (`val/selection_accuracy`). Without this file TensorBoard makes a
    column of every scalar.
    """
    infos = [_info(name, domain) for name, domain in hparams.items()]
    metric_infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    experiment = api_pb2.Experiment(
        hparam_infos=infos, metric_infos=metric_infos, time_created_secs=time.time()
    )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    with TrialBoard(directory) as board:
        board._summarise([_plugin_value(metadata.EXPERIMENT_TAG, data)], 0)


def _new_event_file(directory: Path) -> tuple[int, Path]:
    """A new event file whose name sorts after those present.

    TensorBoard reads files in the order of their names and never goes back, so after a clock that jumped back
    a plain time stamp would hide the new file.
    """
    stamps = [int(found[1]) for path in directory.iterdir() if (found := EVENT_FILE.fullmatch(path.name))]
    for stamp in itertools.count(max([int(time.time()), *(stamp + 1 for stamp in stamps)])):
        path = directory / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return os.open(path, flags, 0o644), path
        except FileExistsError:
            continue
    raise AssertionError("count() does not end")


def _tag(name: str) -> str:
    return name.replace(".", "/", 1)


def _histogram(vector: Sequence[float]) -> summary_pb2.HistogramProto | None:
    """Counts in equal bins from the smallest to the largest finite number; None when no number is finite."""
    finite = [float(value) for value in vector if math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    bins = NUM_BINS if high > low and math.isfinite(high - low) else 1
    width = (high - low) / bins
    counts = [0.0] * bins
    for value in finite:
        counts[min(int((value - low) / width), bins - 1) if bins > 1 and width > 0 else 0] += 1.0
    return summary_pb2.HistogramProto(
        min=low,
        max=high,
        num=len(finite),
        sum=sum(finite),
        sum_squares=sum(value * value for value in finite),
        bucket_limit=[*(low + width * index for index in range(1, bins)), high],
        bucket=counts,
    )


def _value(value: Any) -> struct_pb2.Value:
    if isinstance(value, bool):  # before numbers, for a bool is an int
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=value)
    return struct_pb2.Value(string_value=str(value))


def _info(name: str, domain: Domain) -> api_pb2.HParamInfo:
    if domain is None:
        return api_pb2.HParamInfo(name=name)
    if isinstance(domain, tuple):
        interval = api_pb2.Interval(min_value=domain[0], max_value=domain[1])
        return api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64, domain_interval=interval)
    values = [_value(choice) for choice in domain]
    kinds = {value.WhichOneof("kind") for value in values}
    types = {"bool_value": api_pb2.DATA_TYPE_BOOL, "number_value": api_pb2.DATA_TYPE_FLOAT64}
    kind = types.get(kinds.pop(), api_pb2.DATA_TYPE_STRING) if len(kinds) == 1 else api_pb2.DATA_TYPE_STRING
    return api_pb2.HParamInfo(name=name, type=kind, domain_discrete=struct_pb2.ListValue(values=values))


def _plugin_value(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary.Value:
    data.version = metadata.PLUGIN_DATA_VERSION
    plugin = summary_pb2.SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    shown = summary_pb2.SummaryMetadata(plugin_data=plugin)
    return summary_pb2.Summary.Value(tag=tag, metadata=shown, tensor=metadata.NULL_TENSOR)

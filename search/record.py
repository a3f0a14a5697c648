"""The record of a run: which columns it has, how it is written while trials run, and how it is read back.

    add(row) ──► buffer ──flush()──► epochs/part-<first>-<rows>.parquet ──compact()──► epochs.parquet
                                                                        write_trials() ──► trials.parquet

A row is one trial's report for one epoch: `trial`, `epoch` (from 1), the columns of `EPOCH_COLUMNS`, and
`vectors: {name: [numbers]}`, which become columns `vector.<name>`. Every file appears whole or not at all:
written under another name, synced, renamed. `epochs.parquet` is replaced before the parts that it holds are
removed, and whoever reads takes the parts first and `epochs.parquet` last, so a row may be met twice (and
counts once) but never missed. What is still in the buffer when the process is killed comes back from the
event log with `restore`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from search.errors import DamagedRun
from search.events import sync_directory
from search.schema import (
    EPOCH_COLUMNS,
    TRIAL_COLUMNS,
    Column,
    find_column,
    schema_markdown,
    summarise,
    table_of,
    typed_epoch,
    typed_trial,
)

__all__ = [
    "EPOCH_COLUMNS",
    "TRIAL_COLUMNS",
    "Column",
    "Key",
    "Recorder",
    "Row",
    "acknowledged",
    "keys_of",
    "merged_rows",
    "read_epochs",
    "read_trials",
    "restore",
    "rows_from_events",
    "schema_markdown",
    "stored_tables",
    "summarise",
]

Row = Mapping[str, Any]
Key = tuple[str, int, int]  # phase, trial, epoch

SCHEMA_VERSION = 2  # 2: `source` and `test.*`
PREFIX = "loss_search."
PART_NAME = re.compile(r"part-(\d+)-(\d+)\.parquet")
MAX_PARTS = 512  # a reader opens every part; beyond this, flush compacts
# The whole file's CRC32 follows, its own digits taken as zeros; page checksums protect no header or footer.
SEAL = b"loss_search-crc32-"


class Recorder:
    """The one writer of a run directory's Parquet files.

    `metadata` (space and versions as text) is stored in every file under `loss_search.<key>`. Opening it
    removes half-written files of a process that died and learns which rows are on disk already. Files found
    damaged are left alone and told in `warnings`; `restore` sets them aside. Raises DamagedRun for a record
    of a newer version.
    """

    def __init__(self, run_dir: Path, metadata: Mapping[str, str]) -> None:
        self.run_dir = Path(run_dir)
        self.parts_dir = _parts_dir(self.run_dir)
        self.warnings: list[str] = []
        self._metadata = {PREFIX + key.removeprefix(PREFIX): text for key, text in metadata.items()}
        self._metadata[PREFIX + "schema"] = str(SCHEMA_VERSION)
        self._rows: list[dict[str, Any]] = []
        for directory in (self.run_dir, self.parts_dir):
            for leftover in directory.glob(".*.parquet.tmp"):
                leftover.unlink()
        stored = stored_tables(self.run_dir, self.warnings, ["phase", "trial", "epoch"])
        self._known: set[Key] = {key for _, table in stored for key in keys_of(table)}
        ends = [_part_order(path)[0] + _part_order(path)[1] for path in _parts(self.run_dir)]
        self._next = max([len(self._known), *ends])

    def add(self, row: Row) -> bool:
        """Buffer one row; False when its (phase, trial, epoch) is in the record, which keeps the first.

        Raises ValueError for a column that the schema does not have or a value of another type.
        """
        typed = typed_epoch(row)
        key = (typed["phase"], typed["trial"], typed["epoch"])
        if key in self._known:
            return False
        self._known.add(key)
        self._rows.append(typed)
        return True

    def flush(self) -> Path | None:
        """Write the buffered rows as one part; returns its path, or None when there were none.

        Raises OSError (disk full); the rows then stay in the buffer for the next call.
        """
        part = self._write_part()
        if part is not None and len(_parts(self.run_dir)) > MAX_PARTS:
            self.warnings += self.compact()
        return part

    def write_trials(self, rows: Sequence[Row], kinds: Mapping[str, type] | None = None) -> None:
        """Replace trials.parquet by `rows`, sorted by trial.

        `kinds` gives the type (float, int, bool, str) of `knob.*` and `static.*` columns as the space
        declares it; others follow their values. Raises ValueError for unknown columns, states or values of
        another type.
        """
        typed = [typed_trial(row) for row in rows]
        typed.sort(key=lambda row: (row["trial"], row["phase"] != "search"))
        _write(table_of(typed, TRIAL_COLUMNS, kinds), self.run_dir / "trials.parquet", self._metadata)

    def compact(self) -> list[str]:
        """Merge all parts into epochs.parquet, sorted, each row once; then remove the parts.

        Damaged files are renamed to `<name>.torn-N`, never dropped; returns one warning for each.
        """
        self._write_part()
        warnings: list[str] = []
        stored = stored_tables(self.run_dir, warnings, set_aside=True)
        _write(merged_rows([table for _, table in stored]), self.run_dir / "epochs.parquet", self._metadata)
        for path, _ in stored:
            if path.parent == self.parts_dir:
                path.unlink()
        if self.parts_dir.is_dir() and not any(self.parts_dir.iterdir()):  # a file set aside stays in it
            self.parts_dir.rmdir()
        return warnings

    def _write_part(self) -> Path | None:
        if not self._rows:
            return None
        self.parts_dir.mkdir(exist_ok=True)
        part = self.parts_dir / f"part-{self._next:08d}-{len(self._rows)}.parquet"
        _write(table_of(self._rows, EPOCH_COLUMNS), part, self._metadata)
        self._next += len(self._rows)
        self._rows = []
        return part


def read_epochs(
    run_dir: Path, warnings: list[str] | None = None, columns: list[str] | None = None
) -> pa.Table:
    """Every row on disk once, sorted by (trial, epoch, phase); a column that a row lacks is null there.

    With `columns` (trial, epoch and phase among them) only these are read, those of them that there are.

    May be called at any time by any process. A torn or damaged file is left out and told in `warnings`
    (logged when that is None). Raises DamagedRun for a record of a newer version.
    """
    told: list[str] = []
    merged = merged_rows([table for _, table in stored_tables(Path(run_dir), told, columns)])
    _tell(told, warnings)
    return merged


def read_trials(run_dir: Path, warnings: list[str] | None = None) -> pa.Table:
    """trials.parquet, one row a trial; empty when not written yet or damaged (see `read_epochs`)."""
    told: list[str] = []
    table = _load(Path(run_dir) / "trials.parquet", TRIAL_COLUMNS, told)
    _tell(told, warnings)
    return table_of([], TRIAL_COLUMNS) if table is None else table


def rows_from_events(events: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of all `reported` events, the first of each (phase, trial, epoch)."""
    rows: dict[Key, Row] = {}
    for event in events:
        if event["kind"] == "reported":
            row = event["row"]
            rows.setdefault((row.get("phase") or "search", row["trial"], row["epoch"]), row)
    return list(rows.values())


def restore(
    run_dir: Path, events: Iterable[Mapping[str, Any]], metadata: Mapping[str, str] | None = None
) -> list[str]:
    """Make the record hold every acknowledged row again; for a resume, before a `Recorder` is opened.

    Damaged files are renamed to `<name>.torn-N`, and rows that no file holds are written from the event log
    as a new part. Returns a line about each thing done. Raises DamagedRun for an event whose row is not of
    this schema.
    """
    warnings: list[str] = []
    stored_tables(Path(run_dir), warnings, set_aside=True)
    recorder = Recorder(Path(run_dir), metadata or {})
    added = sum([recorder.add(row) for row in acknowledged(Path(run_dir), events)])
    recorder.flush()
    told = [f"{run_dir}: {added} row(s) recovered from the event log"] if added else []
    return warnings + recorder.warnings + told


def acknowledged(run_dir: Path, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The reported rows as columns, each once."""
    try:
        return [typed_epoch(row) for row in rows_from_events(events)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedRun(f"{run_dir}: the event log has a row that is not of this schema: {error}") from error


def _parts_dir(run_dir: Path) -> Path:
    directory = run_dir / "epochs"
    if directory.is_symlink():
        raise DamagedRun(f"{directory}: is a symbolic link; a run keeps its parts in a directory of its own")
    return directory


def _parts(run_dir: Path) -> list[Path]:
    """The parts on disk in the order in which they were written."""
    directory = _parts_dir(run_dir)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:  # no part yet, or a compaction has just removed the last
        return []
    return sorted((directory / name for name in names if PART_NAME.fullmatch(name)), key=_part_order)


def _part_order(part: Path) -> tuple[int, int]:
    """The number of the part's first row in the order of writing, and its number of rows."""
    first, rows = PART_NAME.fullmatch(part.name).groups()
    return int(first), int(rows)


def stored_tables(
    run_dir: Path, warnings: list[str], columns: list[str] | None = None, set_aside: bool = False
) -> list[tuple[Path, pa.Table]]:
    """epochs.parquet and the parts, in the order in which a row's first occurrence counts."""
    tables = {}
    # epochs.parquet is read last: whatever part vanished meanwhile is in it
    for path in (*_parts(run_dir), run_dir / "epochs.parquet"):
        told: list[str] = []
        tables[path] = _load(path, EPOCH_COLUMNS, told, columns)
        if told and set_aside:
            told = [f"{told[0]}, kept as {_set_aside(path)}"]
        warnings += told
    *parts, compacted = tables.items()
    return [(path, table) for path, table in (compacted, *parts) if table is not None]


def _load(
    path: Path, allowed: tuple[Column, ...], warnings: list[str], columns: list[str] | None = None
) -> pa.Table | None:
    """One file, checksums verified; None when there is none or, with a warning, when it is damaged."""
    try:
        data = bytearray(path.read_bytes())
        _require_seal(data)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            table = file.read(columns=columns, use_threads=False)
        version = int(table.schema.metadata[f"{PREFIX}schema".encode()])
        if version <= SCHEMA_VERSION:
            _require_schema(table, allowed)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        warnings.append(f"{path}: torn or damaged, left out ({str(error).splitlines()[0]})")
        return None
    if version > SCHEMA_VERSION:
        raise DamagedRun(
            f"{path}: schema {version}, this version reads up to {SCHEMA_VERSION}; upgrade loss-search"
        )
    seal = f"{PREFIX}seal".encode()
    return table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != seal})


def _require_seal(data: bytearray) -> None:
    place = data.rfind(SEAL) + len(SEAL)
    told, data[place : place + 8] = bytes(data[place : place + 8]), b"0" * 8
    if place < len(SEAL) or told != b"%08x" % zlib.crc32(data):
        raise ValueError("its checksum is not that of a file of loss-search")


def _require_schema(table: pa.Table, allowed: tuple[Column, ...]) -> None:
    for field in table.schema:
        kind = find_column(field.name, allowed).type
        if kind is not None and field.type != kind:
            raise ValueError(f"column {field.name} is {field.type} instead of {kind}")
    for name in ("trial", "phase") if allowed is TRIAL_COLUMNS else ("trial", "epoch", "phase"):
        if name not in table.column_names or table[name].null_count:
            raise ValueError(f"column {name} is missing or has empty cells")


def merged_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows, the first of each (phase, trial, epoch), sorted by (trial, epoch, phase)."""
    empty = table_of([], EPOCH_COLUMNS)
    merged = pa.concat_tables([empty, *tables], promote_options="default")
    order = {column.name: index for index, column in enumerate(EPOCH_COLUMNS)}
    names = sorted(merged.column_names, key=lambda name: (order[find_column(name, EPOCH_COLUMNS).name], name))
    keys = merged.select(["phase", "trial", "epoch"]).append_column(
        "row", pa.array(range(len(merged)), pa.int64())
    )
    first = keys.group_by(["phase", "trial", "epoch"], use_threads=False).aggregate([("row", "min")])
    first = first.sort_by([(name, "ascending") for name in ("trial", "epoch", "phase")])
    metadata = tables[-1].schema.metadata if tables else None
    return merged.select(names).combine_chunks().take(first["row_min"]).replace_schema_metadata(metadata)


def keys_of(table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in ("phase", "trial", "epoch")), strict=True))


def _write(table: pa.Table, path: Path, metadata: Mapping[str, str]) -> None:
    """Put a whole file in the place of `path`. Raises OSError (disk full) and leaves no piece behind."""
    temporary = path.with_name(f".{path.name}.tmp")
    words = [field.name for field in table.schema if field.type == pa.string()]
    table = table.replace_schema_metadata(dict(metadata))
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=words, write_page_checksum=True
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({f"{PREFIX}seal": SEAL.decode() + "0" * 8})
    data = bytearray(sink.getbuffer())
    place = data.rindex(SEAL) + len(SEAL)
    data[place : place + 8] = b"%08x" % zlib.crc32(data)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _set_aside(path: Path) -> str:
    """Rename a file that cannot be read, so that no row in it is ever dropped; returns its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    return path.rename(aside).name


def _tell(told: list[str], warnings: list[str] | None) -> None:
    if warnings is not None:
        warnings += told
        return
    for warning in told:
        logging.getLogger("loss_search").warning(warning)

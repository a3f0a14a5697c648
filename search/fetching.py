"""A run out of a store onto this machine: the copy that commands read, and `fetch` for keeping.

What the driver uploads last is read first: tables, then the event log, then the study's journal, each after a
look of its own. So the copy never tells of something that it lacks, also while a search writes the store.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from search.errors import BadInput, DamagedRun
from search.storage import LOGS, Location, pieces_in, unusable
from trainables.object_store import ObjectStore, Stored

__all__ = ["Copy", "fetch_run", "require_run"]

THREADS = 16
TABLES = ("epochs.parquet", "trials.parquet")  # after the parts: what a part held is in them by then
NOT_COPIED = ("lock/", "session")
LOOKS = 3  # at pieces of a log that is being written


class Copy:
    """A directory that follows a run in a store. What is equal already is not brought again.

    `index` (beside the directory) remembers which version of each object is here.
    """

    def __init__(self, store: ObjectStore, local: Path) -> None:
        self.store, self.local = store, local
        self._index_path = local.with_name(f".{local.name}.index.json")
        self._index: dict[str, list] = {}

    @contextmanager
    def _held(self) -> Iterator[None]:
        """One process at a time brings files into this directory."""
        self.local.mkdir(parents=True, exist_ok=True)
        with self.local.with_name(f".{self.local.name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._index = dict(json.loads(self._index_path.read_text(encoding="utf-8")))
            except (FileNotFoundError, ValueError):
                self._index = {}  # of no use: everything is brought again
            try:
                yield
            finally:
                temporary = self._index_path.with_suffix(".tmp")
                temporary.write_text(json.dumps(self._index), encoding="utf-8")
                os.replace(temporary, self._index_path)

    def refresh(self, wanted: Callable[[str], bool] = lambda name: "/" not in name) -> list[str]:
        """Bring the tables, the logs and whatever else is `wanted` by name; returns the names in the store.

        Raises OSError when the store cannot be read. Files that the store does not have any more go.
        """
        with self._held():
            stored = self._run_files()
            parts = [name for name in stored if name.startswith("epochs/")]
            others = [name for name in stored if name not in TABLES and name not in parts]
            self._bring([name for name in others if wanted(name)], stored)
            self._bring(parts, stored)
            again = self._run_files()
            self._bring([name for name in TABLES if name in again], again)
            pieces: dict[str, list[str]] = {}
            for log in reversed(LOGS):
                pieces |= self._bring_log(log)
            self._drop({*stored, *again, *LOGS})
            return [*again, *(name for log in pieces.values() for name in log)]

    def bring_folder(self, folder: str) -> None:
        """Everything below one folder, as it is now."""
        with self._held():
            stored = self.store.list(folder)
            self._bring(stored, stored)
            for path in (self.local / folder).rglob("*"):
                name = path.relative_to(self.local).as_posix()
                if path.is_file() and name not in stored:
                    path.unlink()
                    self._index.pop(name, None)

    def _run_files(self) -> dict[str, Stored]:
        found = self.store.list()
        pieces = {name for names in pieces_in(found).values() for name in names}
        return {
            name: about
            for name, about in found.items()
            if name not in pieces and not name.startswith(NOT_COPIED) and name not in LOGS
        }

    def _bring(self, names: Iterable[str], stored: Mapping[str, Stored]) -> None:
        def bring(name: str) -> None:
            version = _version(stored[name])
            # A store's clock may tell seconds only; a table can be replaced within one, at equal length.
            if "/" in name and self._index.get(name) == version and (self.local / name).is_file():
                return
            try:
                if "/events.out.tfevents." in name:
                    self._append(name)
                else:
                    self.store.download(name, self.local / name)
            except FileNotFoundError:
                return  # removed meanwhile; what a part held is in epochs.parquet by now
            self._index[name] = version

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(bring, list(names)):
                pass

    def _append(self, name: str) -> None:
        """A file that grows at its end, in place: TensorBoard keeps it open."""
        path = self.local / name
        data = self.store.get(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data[file.tell() :])

    def _bring_log(self, log: str) -> dict[str, list[str]]:
        """Put a log together from its pieces; those that are here already stay."""
        for _ in range(LOOKS):
            stored = self.store.list(f"{log}.pieces")
            pieces = pieces_in(stored).get(log, [])
            if not pieces:
                return {}
            if self._join(log, pieces, stored):
                return {log: pieces}
        raise DamagedRun(f"{self.store.uri_of(log + '.pieces')}: its pieces do not follow one another")

    def _join(self, log: str, pieces: list[str], stored: Mapping[str, Stored]) -> bool:
        """False when a piece is missing or of another length than the next one says: look again."""
        path = self.local / log
        known = 0
        size = path.stat().st_size if path.is_file() else 0
        while known < len(pieces) - 1 and self._index.get(pieces[known]) == _version(stored[pieces[known]]):
            known += 1
        if known and size != _offset(pieces[known - 1]) + stored[pieces[known - 1]].size:
            known = 0
        end = _offset(pieces[known]) if known < len(pieces) else size
        with path.open("r+b" if path.is_file() else "w+b") as file:
            file.truncate(end)
            file.seek(end)
            for name in pieces[known:]:
                if _offset(name) != end:
                    return False
                try:
                    data = self.store.get(name)
                except FileNotFoundError:
                    return False
                file.write(data)
                end += len(data)
                # The last piece may have grown since the look; it is brought again every time.
                self._index[name] = [len(data), _version(stored[name])[1]]
        return True

    def _drop(self, stored: set[str]) -> None:
        """Files that were brought from the store and are not in it any more, those of trials apart."""
        for name in [name for name in self._index if name not in stored and ".pieces/" not in name]:
            if not name.startswith(("trials/", "confirm/")):
                (self.local / name).unlink(missing_ok=True)
                del self._index[name]


def fetch_run(run: str | Location, to: Path, *, everything: bool = False) -> list[str]:
    """Bring a run home from a store: tables, study, logs, report, and the files of the best trials.

    Args:
        run: its URI.
        to: a directory that is made; holds the run directory afterwards, named as in the store. A run that
            was fetched before is brought up to date.
        everything: the files of all trials.

    Returns lines that say what is there. Raises BadInput when the store or `to` cannot be used, or when
    there is no such run, and DamagedRun when it is no run.
    """
    location = run if isinstance(run, Location) else Location(run)
    store = location.require(writable=False)
    try:
        require_run(location, store)
        local = to.expanduser() / location.name
        local.mkdir(parents=True, exist_ok=True)
        copy = Copy(store, local)
        copy.refresh(_of_the_run if not everything else lambda name: True)
        brought = [] if everything else [folder for folder in _best_folders(local) if _bring(copy, folder)]
    except OSError as error:
        if error.filename is not None:
            raise BadInput(f"--to {to}: cannot be written ({error.strerror})") from error
        raise BadInput(f"{location}: {unusable(error)}") from error
    return _said(local, brought, everything)


def _of_the_run(name: str) -> bool:
    return not name.startswith(("trials/", "confirm/")) or name.count("/") == 1


def _bring(copy: Copy, folder: str) -> bool:
    copy.bring_folder(folder)
    return (copy.local / folder).is_dir()


def _best_folders(local: Path) -> list[str]:
    """The folders of the best trial of the search and of its confirmation, and of every preset's trial."""
    from search.record import read_trials
    from search.run import Run
    from search.run_directory import RunDirectory

    space = Run.stored_space(RunDirectory(local))
    sign = 1.0 if space.directions[0] == "maximize" else -1.0
    rows = read_trials(local).to_pylist()
    folders = []
    for phase, folder in (("search", "trials"), ("confirm", "confirm")):
        valued = [row for row in rows if row["phase"] == phase and row["objective"] is not None]
        complete = [row for row in valued if row["state"] == "COMPLETE"] or valued
        best = max(complete, key=lambda row: sign * row["objective"], default=None)
        wanted = [row for row in valued if row is best or (phase == "search" and row["preset"])]
        if phase == "confirm" and best is not None:  # every seed of the configuration that did best
            wanted = [row for row in valued if row.get("source") == best.get("source")]
        folders += [f"{folder}/{row['trial']}" for row in wanted]
    return folders


def _said(local: Path, brought: list[str], everything: bool) -> list[str]:
    from search.console import shown_path

    size = sum(path.stat().st_size for path in local.rglob("*") if path.is_file())
    what = "every trial" if everything else f"the files of {', '.join(brought) or 'no trial yet'}"
    return [
        f"{shown_path(local)}: tables, study, logs, report, and {what}; {size / 1e6:.1f} MB",
        f"look at it with: loss-search show {shown_path(local)}",
    ]


def require_run(location: Location, store: ObjectStore) -> None:
    """Raises BadInput, with the runs that there are, when there is none at `location`."""
    if store.has("space.yaml"):
        return
    for place in (location, location.parent):
        inside = place.store
        names = [name for name in reversed(inside.folders()) if inside.has(f"{name}/space.yaml")][:5]
        if names:
            raise BadInput(f"{location}: there is no run here; runs in {place}: {', '.join(names)}")
    raise BadInput(f"{location}: there is no run here, nor beside it")


def _offset(piece: str) -> int:
    return int(piece.rpartition("/")[2])


def _version(about: Stored) -> list:
    return [about.size, about.written.isoformat() if about.written else None]

"""The copy of a run in a store, kept up to date behind the search by one thread.

    every cycle:  look (what changed) ─► logs ─► other files ─► tables ─► removals ─► new pictures come here

What is uploaded never tells of something that the store does not have: tables are read before the logs, the
event log before the study's journal, and they are written in the opposite order. A cycle begins `EVERY_S`
after the one before began, so what a lost machine costs is what was reported since the last cycle began:
`EVERY_S` and the time that one cycle takes.

A store that cannot be reached is tried again, slower each time, while the search goes on from its local copy;
after `AWAY_S` the mirror has a `fault`, with which the driver ends the search, resumable.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from search.errors import Incomplete
from search.storage import ENGINE_FILES, LOGS, piece_name, pieces_in
from search.store_lock import StoreLock
from trainables.object_store import ObjectStore, reason

__all__ = ["Mirror"]

logger = logging.getLogger("loss_search.mirror")

EVERY_S = 10.0
AWAY_S = 300.0
FINAL_AWAY_S = 60.0  # the longest wait for a store when a command ends
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 10.0  # between two tries
PIECE_BYTES = 1 << 20  # a piece is uploaded again as long as it is shorter
FIRST_FILES = ("space.yaml", "environment.json")  # without them nothing else can be read
THREADS = 8
FOLLOW_S = 60.0  # how long after its last row an engine may still upload pictures of a trial
NOT_MIRRORED = (".lock", ".shared")

Signature = tuple[int, int, int]  # size, time of writing in ns, inode


@dataclass
class _Log:
    """How much of a growing file the store has: whole lines up to `sent`, the last piece from `start`."""

    start: int = 0
    sent: int | None = None  # None: the last piece has to be written again


@dataclass
class _Look:
    """What is to be uploaded: `ends` of the logs, `tables` with what they held then, names of other files."""

    files: dict[str, Signature]
    ends: dict[str, int]
    tables: dict[str, bytes]
    others: list[str]
    gone: list[str]


@dataclass
class Traffic:
    """What the mirror has sent: for the log, and for whoever measures."""

    cycles: int = 0
    requests: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    threads: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, size: int) -> None:
        with self.threads:
            self.requests += 1
            self.sent_bytes += size


class Mirror:
    """Keeps `store` like the directory `local`, apart from what engines write there themselves.

    Args:
        lock: renewed before each cycle; losing it is a fault.
        known: the names of the store's objects that are equal to the local files now (after a download).
    """

    def __init__(
        self,
        local: Path,
        store: ObjectStore,
        lock: StoreLock,
        known: Iterable[str] = (),
        *,
        every_s: float = EVERY_S,
        away_s: float = AWAY_S,
    ) -> None:
        self.local, self.store, self.lock = local, store, lock
        self.every_s, self.away_s = every_s, away_s
        self.fault: Incomplete | None = None
        self.traffic = Traffic()
        self.synced_at: float | None = None  # monotonic time at which the last whole cycle began
        self._logs = {name: _Log() for name in LOGS}
        self._uploaded: dict[str, Signature] = {}
        self._stale: list[str] = []  # pieces that go when all others have been sent
        self._active: dict[str, float] = {}  # trial folder -> until when its pictures are looked for
        self._turn = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mirror")
        self._take_over(set(known))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Bring the store up to date for the last time, with patience.

        Raises Incomplete when it stays away; the local copy is kept then.
        """
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self.fault is not None:
                raise self.fault
            begun, wait_s = time.monotonic(), FIRST_WAIT_S
            while True:
                try:
                    return self.sync()
                except OSError as error:
                    if time.monotonic() - begun > min(self.away_s, FINAL_AWAY_S):
                        raise self._lost(error, time.monotonic() - begun) from error
                    logger.warning("%s: cannot be written, trying again (%s)", self.store.uri, reason(error))
                    time.sleep(wait_s)
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        finally:
            self._pool.shutdown()

    def sync(self) -> None:
        """One cycle, now. Raises OSError when the store refuses, Incomplete when the run was taken over."""
        with self._turn:
            begun = time.monotonic()
            self.lock.renew()
            look = self._look()
            self._send_logs(look)
            since = time.monotonic()
            for batch in _batches(look.others, 8 * THREADS):
                self._send_files(batch, look.files)
                if time.monotonic() - since > self.every_s:  # rows must not wait for a heap of pictures
                    self._send_logs(self._look())
                    since = time.monotonic()
            for name, data in look.tables.items():
                self._put(name, data)
                self._uploaded[name] = look.files[name]
            self._remove([*look.gone, *self._stale])
            self._stale = []
            self._bring_pictures()
            self.synced_at = begun
            took_s = time.monotonic() - begun
            self.traffic.cycles += 1
            self.traffic.seconds += took_s
            self.traffic.longest_s = max(self.traffic.longest_s, took_s)

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        wait_s, away_since = FIRST_WAIT_S, None
        while not self._ending.is_set():
            begun = time.monotonic()
            try:
                self.sync()
            except Incomplete as error:
                self.fault = error
                return
            except OSError as error:
                if away_since is None:
                    away_since = begun
                    logger.warning(
                        "%s: cannot be written (%s); the search goes on, and tries again. Until then its "
                        "results are only in %s",
                        self.store.uri,
                        reason(error),
                        self.local,
                    )
                elif begun - away_since > self.away_s:
                    self.fault = self._lost(error, begun - away_since)
                    return
                self._ending.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            except Exception as error:
                # The rim of the thread: without this the store would silently fall behind.
                logger.exception("the mirror of %s failed", self.store.uri)
                self.fault = Incomplete(f"{self.store.uri}: cannot be kept up to date ({error}); see run.log")
                return
            if away_since is not None:
                seconds = time.monotonic() - away_since
                logger.warning(
                    "%s: can be written again after %.0f s; nothing is lost", self.store.uri, seconds
                )
                wait_s, away_since = FIRST_WAIT_S, None
            self._ending.wait(max(0.0, begun + self.every_s - time.monotonic()))

    def _lost(self, error: OSError, seconds: float) -> Incomplete:
        return Incomplete(
            f"{self.store.uri}: could not be written for {seconds:.0f} s ({reason(error)}); what is not "
            f"there is in {self.local}, which is kept. When the store can be reached again, continue on "
            f"this machine with: loss-search resume {self.lock.shown}"
        )

    # ------------------------------------------------------------------ looking

    def _take_over(self, known: set[str]) -> None:
        """Begin where the store stands: what is there already need not be sent again.

        Parts that were merged here after the last upload are removed there.
        """
        files = self._files()
        for name in known:
            if name in files:
                self._uploaded[name] = files[name]
            elif name.startswith("epochs/part-"):
                self._uploaded[name] = (0, 0, 0)
        for log, pieces in pieces_in(known).items():
            start = int(pieces[-1].rpartition("/")[2])
            if start <= _size(self.local / log):
                self._logs[log].start = start
            else:  # the local file was cut before the last piece: all of it again, and then no piece beyond
                self._stale += pieces

    def _look(self) -> _Look:
        files = self._files()
        missing = [name for name in FIRST_FILES if name not in files]
        if missing:  # removals are followed, but not that of the run itself
            raise Incomplete(
                f"{self.local}: {', '.join(missing)} vanished from the local copy of {self.store.uri}, which "
                f"stays as it is; continue with: loss-search resume {self.lock.shown}"
            )
        changed = [name for name, signature in files.items() if self._uploaded.get(name) != signature]
        tables = {}
        for name in sorted(
            changed, key=lambda name: (name == "trials.parquet", name == "epochs.parquet", name)
        ):
            if name.endswith(".parquet"):
                try:
                    tables[name] = (self.local / name).read_bytes()
                except FileNotFoundError:
                    continue  # merged meanwhile: epochs.parquet comes with the next cycle
        ends = {name: _size(self.local / name) for name in reversed(LOGS)}
        others = [name for name in changed if name not in tables and not name.endswith(".parquet")]
        others.sort(key=lambda name: (name not in FIRST_FILES, name.endswith(".json"), name))
        gone = [name for name in self._uploaded if name not in files]
        for name in others:
            folder, _, file = name.rpartition("/")
            if file.startswith("events.out.tfevents."):
                self._active[folder] = time.monotonic() + FOLLOW_S
        return _Look(files, ends, tables, others, gone)

    def _files(self) -> dict[str, Signature]:
        """Every file that the mirror is to keep, the logs apart."""
        found: dict[str, Signature] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.local / folder))
            except FileNotFoundError:
                continue
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    continue  # a link could name any file of this machine
                if entry.is_dir():
                    folders.append(name)
                elif not _is_passing(entry.name) and name not in LOGS and not ENGINE_FILES.fullmatch(name):
                    try:
                        about = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found[name] = (about.st_size, about.st_mtime_ns, about.st_ino)
        return found

    # ------------------------------------------------------------------ sending

    def _send_logs(self, look: _Look) -> None:
        first = [name for name in FIRST_FILES if name in look.others]
        self._send_files(first, look.files)
        for name in LOGS:  # the study first: it knows more than the event log, never less
            self._send_log(name, look.ends[name])

    def _send_log(self, name: str, end: int) -> None:
        """The whole lines of a log up to `end` bytes."""
        state = self._logs[name]
        if not (self.local / name).exists():
            return
        with (self.local / name).open("rb") as file:
            while True:
                file.seek(state.start)
                data = file.read(min(end - state.start, PIECE_BYTES))
                if state.start + len(data) < end and b"\n" not in data:
                    data += file.readline()  # one line longer than a piece
                data = data[: data.rfind(b"\n") + 1]
                reached = state.start + len(data)
                if reached == state.sent:
                    return
                self._put(piece_name(name, state.start), data)
                is_full = end - state.start > PIECE_BYTES or len(data) > PIECE_BYTES // 2
                state.sent = reached
                if is_full:
                    state.start = reached
                if reached >= end or not is_full:
                    return

    def _send_files(self, names: Iterable[str], files: dict[str, Signature]) -> None:
        def send(name: str) -> None:
            if self._uploaded.get(name) == files[name]:
                return
            try:
                data = (self.local / name).read_bytes()
            except FileNotFoundError:
                return  # removed meanwhile
            self._put(name, data)
            self._uploaded[name] = files[name]

        for _ in self._pool.map(send, names):
            pass

    def _remove(self, names: Iterable[str]) -> None:
        def remove(name: str) -> None:
            self.store.remove(name)
            self.traffic.add(0)
            self._uploaded.pop(name, None)

        for _ in self._pool.map(remove, list(names)):
            pass

    def _put(self, name: str, data: bytes) -> None:
        self.store.put(name, data)
        if name in self._stale:
            self._stale.remove(name)
        self.traffic.add(len(data))

    # ------------------------------------------------------------------ pictures of engines

    def settle(self) -> None:
        """Bring what engines have uploaded at their end; without it where the store is away."""
        with self._turn:
            try:
                self._bring_pictures()
            except OSError as error:
                logger.warning("%s: the last pictures could not be read (%s)", self.store.uri, reason(error))

    def _bring_pictures(self) -> None:
        """Pictures that engines have uploaded, into the local copy, from where TensorBoard gets them."""
        now = time.monotonic()
        self._active = {folder: until for folder, until in self._active.items() if until > now}
        for _ in self._pool.map(self._bring_pictures_of, self._active):
            pass

    def _bring_pictures_of(self, folder: str) -> None:
        for name in self.store.list(f"{folder}/figures"):
            if name.endswith(".png") and not (self.local / name).exists():
                try:
                    self.store.download(name, self.local / name)
                except FileNotFoundError:
                    continue


def _is_passing(name: str) -> bool:
    """Locks, and files that are being written under another name."""
    return name in NOT_MIRRORED or name.endswith((".tmp", ".lock"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]

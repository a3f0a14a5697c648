"""Who may write a run that lies in a store."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from search.errors import BadInput, Incomplete
from trainables.object_store import ObjectStore

__all__ = ["STALE_S", "StoreLock"]

BEAT_S = 15.0  # how often a lock is renewed
STALE_S = 60.0  # a lock that was not renewed for so long, by the store's own clock, counts for nothing


class StoreLock:
    """The right to write a run in a store. One object a holder, below `lock/`, rewritten by `renew`.

    Whoever wants it writes its own object and then looks for others: stores are consistent, so of two that
    try at once at least one sees the other. A holder counts while its object is younger than `STALE_S` by the
    store's clock, and not at all when it was a process of this machine that has ended. A thread of its own
    renews it every `BEAT_S`, for a download or an upload can take longer than that.
    """

    def __init__(self, store: ObjectStore, shown: str) -> None:
        self.store, self.shown = store, shown
        self.nonce = secrets.token_hex(8)
        self.name = f"lock/{self.nonce}"
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)
        self.session: bytes | None = None  # what `session` holds while the run is this driver's

    def acquire(self) -> None:
        """Raises BadInput, with who holds it and for how long that still counts."""
        self.store.put(self.name, self._about())
        try:
            for name, holder in self.holders(self.store, self.name).items():
                if holder["alive"]:
                    where = f"process {holder['pid']} on {holder['host']}"
                    raise BadInput(
                        f"{self.shown}: another loss-search ({where}) works on this run, seen "
                        f"{holder['age_s']:.0f} s ago; wait for it, or stop it there with: kill -INT "
                        f"{holder['pid']}. If it is dead, its lock ends in {STALE_S - holder['age_s']:.0f} s"
                    )
                self.store.remove(name)
        except BaseException:
            self.store.remove(self.name)
            raise
        self._beating.start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self.renew()
            except Incomplete:
                return  # the next cycle of the mirror says so
            except OSError:
                continue  # the mirror says so, and knows when it has been too long

    def renew(self) -> None:
        """Say that this driver lives. Raises Incomplete when another one has taken the run over meanwhile."""
        stored = self.store.list("lock")
        if self.name not in stored and (stored or not self._is_my_session()):
            raise Incomplete(
                f"{self.shown}: another loss-search has taken this run over, because this one could not "
                "reach the store for a while; what is there now is that one's"
            )
        self.store.put(self.name, self._about())

    def _is_my_session(self) -> bool:
        try:
            return self.session is None or self.store.get("session") == self.session
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Let the run go; also after `acquire` raised."""
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join()
        self.store.remove(self.name)

    @staticmethod
    def holders(store: ObjectStore, own: str | None = None) -> dict[str, dict[str, Any]]:
        """Every other lock object: `pid`, `host`, `age_s` by the store's clock, and whether it is `alive`."""
        stored = store.list("lock")
        written = stored[own].written if own in stored else None
        now = written or max((one.written for one in stored.values()), default=None)
        found = {}
        for name, one in stored.items():
            if name == own:
                continue
            try:
                about = json.loads(store.get(name))
                holder = {"pid": int(about["pid"]), "host": str(about["host"])[:100], "boot": about["boot"]}
            except FileNotFoundError:
                continue  # let go of meanwhile
            except (ValueError, KeyError, TypeError):
                holder = {"pid": 0, "host": "an unknown machine", "boot": None}
            age_s = (now - one.written).total_seconds()
            dead = holder["boot"] == _boot() and not _is_process(holder["pid"])
            found[name] = {**holder, "age_s": age_s, "alive": age_s < STALE_S and not dead}
        return found

    @staticmethod
    def is_held(store: ObjectStore) -> bool:
        """Whether a driver works on the run now; asks the clock of this machine where nothing else tells."""
        now = datetime.now().astimezone()
        holders = StoreLock.holders(store)
        stored = store.list("lock")
        return any(
            holder["alive"] and (now - stored[name].written).total_seconds() < 2 * STALE_S
            for name, holder in holders.items()
            if name in stored
        )

    def _about(self) -> bytes:
        return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot()}).encode()


def _boot() -> str:
    """This machine since it was started, and which of its processes can be seen from here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # another system than Linux: only the age of a lock tells
        return secrets.token_hex(8)


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

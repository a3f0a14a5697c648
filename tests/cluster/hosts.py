"""Hosts that are really separate, on one machine: a network namespace each, with its own processes, mounts,
name, home, temporary files and sshd. `kill` is a power cut.

What they share is what hosts of a laboratory share: the installed software, read from the same disk, and one
directory for runs (a bind mount here stands for NFS).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NETWORK", "SHARED", "Host", "missing", "network"]

NETWORK = "10.77.0"
SHARED = "/srv/runs"
PROGRAMS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
HIDDEN = ("/root", "/tmp")  # each host has its own
START_S = 20.0


def missing() -> str | None:
    """Why such hosts cannot be made here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: openssh-server openssh-client rsync iproute2)"
    tried = subprocess.run(
        ["unshare", "-n", "-m", "-u", "-p", "-f", "--mount-proc", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"namespaces are not permitted: {tried.stderr.strip()}"


@contextmanager
def network(name: str) -> Iterator[None]:
    """The bridge that joins the hosts, with this machine as .1 on it."""
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("address", "add", f"{NETWORK}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield
    finally:
        _ip("link", "delete", name)


class Host:
    """One host on the bridge `bridge`. Its files are below `scratch`; `shared` is its /srv/runs.

    Ray is told that it has `cores`, so that two workers of an engine need two hosts.
    """

    def __init__(self, number: int, bridge: str, scratch: Path, shared: Path, key: Path, cores: int) -> None:
        self.address = f"{NETWORK}.{number}"
        self.name, self.bridge = f"{bridge}h{number}", bridge
        self.files, self.shared, self.key, self.cores = scratch / self.name, shared, key, cores
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Join the bridge, get a disk, and boot."""
        _ip("netns", "add", self.name)
        _ip("link", "add", f"v{self.name}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", f"v{self.name}", "master", self.bridge, "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        _ip("-n", self.name, "route", "add", "default", "via", f"{NETWORK}.1")
        self._make_files()
        self.boot()

    def boot(self) -> None:
        """Boot, for the first time or after a power cut; returns when sshd answers."""
        boot = ["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child=KILL", "bash"]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *boot, str(self.files / "boot.sh")],
            stdin=subprocess.DEVNULL,
            stdout=(self.files / "console.log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.name}: {(self.files / 'console.log').read_text()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        probe = subprocess.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/{self.address}/22"], stderr=subprocess.DEVNULL, check=False
        )
        return probe.returncode == 0

    def _make_files(self) -> None:
        for folder in ("root", "tmp"):
            (self.files / folder).mkdir(parents=True)
        ssh = self.files / "root" / ".ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(f"{self.key}.pub", ssh / "authorized_keys")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.files / "host_key")], check=True
        )
        (self.files / "root" / ".bashrc").write_text(
            f"export PATH={sys.prefix}/bin:$PATH OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1\n"
            f"export RAY_OVERRIDE_RESOURCES='{json.dumps({'CPU': self.cores})}'\n"
        )
        (self.files / "root" / ".profile").write_text(". ~/.bashrc\n")
        (self.files / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self.files / "boot.sh").write_text("\n".join(self._boot()) + "\n")

    def _boot(self) -> Iterator[str]:
        yield "set -e"
        yield f"hostname {self.name}"
        yield f"mount --bind {self.files}/hosts /etc/hosts"
        yield "mount -t tmpfs -o mode=1777,size=8g none /dev/shm"
        yield "mount -t tmpfs -o mode=755 none /run && mkdir -p /run/sshd"
        yield f"mount -t tmpfs none /srv && mkdir -p {SHARED} && mount --bind {self.shared} {SHARED}"
        yield f"cp {self.files}/host_key /run/host_key"
        for place in HIDDEN:  # the software may lie below a directory that the host has for itself
            own = f"{self.files}{place}"
            for path in {sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), *_packages()}:
                if path.startswith(f"{place}/"):
                    yield f"mkdir -p {own}{path.removeprefix(place)}"
                    yield f"mount --bind {path} {own}{path.removeprefix(place)}"
        for place in HIDDEN:
            yield f"mount --rbind {self.files}{place} {place}"
        settings = {
            "HostKey": "/run/host_key",
            "ListenAddress": self.address,
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "PidFile": "none",
            "MaxSessions": "50",
        }
        options = " ".join(f"-o {name}={value}" for name, value in settings.items())
        yield f"/usr/sbin/sshd -D -e -f /dev/null {options} &"
        yield "wait"

    def run(self, *command: str) -> str:
        """Run a command inside; its output."""
        inside = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        done = subprocess.run(
            ["nsenter", "-t", inside, "-a", *command], capture_output=True, text=True, check=True
        )
        return done.stdout

    def kill(self) -> None:
        """A power cut: every process of the host is gone at once."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def remove(self) -> None:
        self.kill()
        subprocess.run(["ip", "link", "delete", f"v{self.name}"], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "netns", "delete", self.name], stderr=subprocess.DEVNULL, check=False)


def _packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

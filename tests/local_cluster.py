"""A Ray cluster of several nodes on this machine, on loopback with a token, for the tests.

    python tests/local_cluster.py     prints the head's address, then obeys lines on its standard input:
    add                               one more node of one core; prints its id
    kill ID                           SIGKILL for the raylet with this node id and all its workers
    drain ID                          a notice that the node will be gone within half a minute
An empty line or the end of the input ends it. The head has no core for work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from searches import processes_below

from search.cluster import LOOPBACK

STORE_BYTES = 80 * 2**20


class LocalCluster:
    """The cluster of a test, in a process of its own; use it as a context manager."""

    def __init__(self, nodes: int, token: str) -> None:
        self.settings = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps Ray on loopback, see search.cluster
        }
        self.count = nodes

    def __enter__(self) -> LocalCluster:
        self.scratch = tempfile.TemporaryDirectory(prefix="lsc-", ignore_cleanup_errors=True)
        (Path(self.scratch.name) / "ray").mkdir()  # Ray notes the head's address in it, and does not make it
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {
            **os.environ,
            **self.settings,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": self.scratch.name,
            "PYTHONPATH": paths.rstrip(os.pathsep),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.scratch.name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self._answer()
        self.nodes = [self.add() for _ in range(self.count)]
        return self

    def add(self) -> str:
        return self._ask("add")

    def kill(self, node: str) -> None:
        self._ask(f"kill {node}")

    def drain(self, node: str) -> str:
        return self._ask(f"drain {node}")

    def _ask(self, line: str) -> str:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        answer = self.process.stdout.readline().strip()
        assert answer, "the cluster ended"
        return answer

    def __exit__(self, *_: object) -> None:
        left = [self.process.pid, *processes_below(self.process.pid)]
        self.process.stdin.close()
        try:
            self.process.wait(30)
        finally:
            for pid in left:
                subprocess.run(["kill", "-KILL", str(pid)], stderr=subprocess.DEVNULL, check=False)
            self.process.wait()
            self.process.stdout.close()
            self.scratch.cleanup()


def main(scratch: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    common = {
        "object_store_memory": STORE_BYTES,
        "node_ip_address": LOOPBACK,
        "include_dashboard": False,
        "temp_dir": scratch,
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
    added = {}
    print(cluster.address, flush=True)
    for line in sys.stdin:
        order, _, node = line.strip().partition(" ")
        if order == "add":
            made = cluster.add_node(num_cpus=1, **common)
            added[made.node_id] = made
            print(made.node_id, flush=True)
        elif order == "kill":
            cluster.remove_node(added.pop(node), allow_graceful=False)
            print("killed", flush=True)
        elif order == "drain":
            print(_drain(ray, cluster.address, node), flush=True)
        else:
            break
    cluster.shutdown()


def _drain(ray: object, address: str, node: str) -> str:
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=address)
    accepted, refusal = client.drain_node(node, reason, "a spot notice", _in_half_a_minute())
    return "drains" if accepted else f"refused: {refusal}"


def _in_half_a_minute() -> int:
    import time

    return int((time.time() + 30) * 1000)


if __name__ == "__main__":
    main(sys.argv[1])

"""Clusters that a test may break: in processes of their own, with a token, on loopback alone.

As a script: a head without a CPU and two nodes; for the id of a raylet on stdin, its node is taken away and another one
added.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


@contextmanager
def variables(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a cluster and its clients; what is left of the cluster is killed at the end."""
    (folder / "token").write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:  # sockets need a short path
        yield kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": short,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }


@contextmanager
def started(
    command: list[str], environment: dict[str, str], log: Path, pipes: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process, with pipes to it or with its output in `log`; killed with all its children when the block ends."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE if pipes else None,
            stdout=subprocess.PIPE if pipes else file,
            stderr=file,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for each in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def head(environment: dict[str, str], folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A head that takes jobs; yields the address of its dashboard, and its process."""
    port, dashboard, client = free_port(), free_port(), free_port()
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *("--dashboard-agent-listen-port=0", "--disable-usage-stats"),
    ]
    address = f"http://127.0.0.1:{dashboard}"
    with (folder / "head.log").open("ab") as log, started(command, environment, folder / "head.log") as process:
        deadline = time.monotonic() + 90
        while subprocess.run(
            ["ray", "job", "list", "--address", address], env=environment, stdout=log, stderr=log
        ).returncode:
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(1)
        yield address, process


class Nodes:
    """A head without a CPU and two nodes with two each; see this file as a script."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self.environment = environment
        self.root = psutil.Process(process.pid)
        self._process = process
        self.address, head = self._answer("cluster")
        self._head = int(head)

    def away_from_head(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        """Those that are on one of the two nodes."""
        return [process for process in processes if self._raylet(process) not in (None, self._head)]

    def lose(self, process: psutil.Process) -> None:
        """Take the node of a process away; returns when another one is there."""
        assert self._process.stdin is not None
        print(self._raylet(process), file=self._process.stdin, flush=True)
        self._answer("replaced")

    @staticmethod
    def _raylet(process: psutil.Process) -> int | None:
        with suppress(psutil.NoSuchProcess):
            return next((parent.pid for parent in process.parents() if parent.name() == "raylet"), None)
        return None

    def _answer(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise AssertionError("the cluster has died")


def serve_nodes() -> None:
    """What this file does as a script."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    print("cluster", cluster.address, cluster.head_node.all_processes["raylet"][0].process.pid, flush=True)
    for line in sys.stdin:
        (lost,) = (node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == int(line))
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=2)
        print("replaced", flush=True)


if __name__ == "__main__":
    serve_nodes()

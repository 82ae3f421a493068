"""Many machines, simulated on one: nodes with logical GPUs, so that it is seen who lands where, and who comes and goes.

Each cluster lives in processes of its own, with a token, on loopback alone; this file is also the driver that they run.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit")]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

VALUES = ("authority", "care", "fairness", "loyalty", "sanctity")
ITEMS = 24


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a cluster and its clients: a token, loopback, a folder with a short path for sockets."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    folder = tempfile.mkdtemp(prefix="ray-")
    yield kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # where all nodes start on two busy cores
        "RAY_worker_niceness": "0",
    }
    for process in psutil.process_iter():  # Ray's own, which are children of nobody when their parent is gone
        with contextlib.suppress(psutil.Error):
            if any(file.path.startswith(folder) for file in process.open_files()):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(command: list[str], variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed with all its children when the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True, cwd=ROOT)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            ours = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in ours:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(30)


def drive(what: str, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run one of the drivers below in a process of its own; returns what it found."""
    log = folder / "driver.log"
    with started([sys.executable, __file__, what, str(folder)], variables, log) as process:
        assert process.wait(600) == 0, log.read_text()[-6000:]
    return json.loads((folder / "found.json").read_text())


def test_models_and_agents_land_on_a_gpu_of_their_own(tmp_path: Path, variables: dict[str, str]) -> None:
    found = drive("spread", tmp_path, variables)
    assert found["exit_code"] == 0
    assert found["judgements"] == 3 * 5 * ITEMS
    assert len(found["annotators"]) == 3, "an actor for each of three models"
    assert len(set(found["annotators"].values())) == 3, "no two of them on one GPU"
    assert len(set(found["agents"])) == 5
    assert set(found["agents"]) | set(found["annotators"].values()) <= set(found["gpu_nodes"])


def test_actors_of_a_pool_share_the_work(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.weak_scaling", "nodes", "--sizes", "2", "--batches", "8"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert found[-1]["dilemmas"] == 2 * 8 * 16
    assert found[-1]["of_possible"] > 0.6, "two actors that each judge half of the time, or one alone"


def test_nodes_come_for_a_pool_and_go_when_idle(tmp_path: Path, variables: dict[str, str]) -> None:
    port = free_port()
    variables |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    (tmp_path / "cluster.yaml").write_text(json.dumps(autoscaling(port)))
    head = [
        *("ray", "start", "--head", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}"),
        *("--dashboard-agent-listen-port=0", f"--autoscaling-config={tmp_path / 'cluster.yaml'}"),
    ]
    with started(head, variables, tmp_path / "head.log"):
        found = drive("autoscaled", tmp_path, variables | {"RAY_ADDRESS": f"127.0.0.1:{port}"})
    assert found["exit_code"] == 0
    assert found["judgements"] == 5 * ITEMS
    assert found["gpu_nodes_before"] == 0
    assert found["gpu_nodes_at_most"] == 2, "as many as the pool has actors, though four were allowed"
    places = list(found["annotators"].values())  # the second actor may come too late to be seen with work to do
    assert 1 <= len(places) == len(set(places))
    assert found["gpu_nodes_after"] == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def autoscaling(port: int) -> dict[str, Any]:
    """A cluster file for Ray's simulated provider: no GPU to begin with, four nodes with one at most."""
    nodes = {
        "head": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu-1": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 4},
    }
    empty = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "simulated",
        "max_workers": 4,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "available_node_types": {"ray.head.default": nodes["head"], "gpu-1": nodes["gpu-1"]},
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in empty},
    }


class Watch(threading.Thread):
    """Looks twice a second where the actors of annotators are, and how many nodes have a GPU."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.annotators: dict[str, str] = {}
        self.most = 0
        self._over = threading.Event()

    def run(self) -> None:
        from ray._private.state import actors

        while not self._over.wait(0.5):
            self.most = max(self.most, len(gpu_nodes()))
            for name, actor in actors().items():
                if actor["State"] == "ALIVE" and "Annotator" in actor["ActorClassName"]:
                    self.annotators[name] = actor["Address"]["NodeID"]

    def end(self) -> None:
        self._over.set()
        self.join()


def gpu_nodes() -> list[str]:
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]


def judge(folder: Path, pool: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the job annotate as its command line would, watched."""
    from jobs import annotate
    from jobs.cli import main

    rows = [{"item_id": str(k), "text": f"I kept {k} coins that I had found."} for k in range(ITEMS)]
    (folder / "dilemmas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"dilemmas": str(folder / "dilemmas.jsonl"), "pool": pool, "batch_size": 2, "repeat_sample": 0}
    (folder / "annotate.yaml").write_text(json.dumps(config))
    watch = Watch()
    watch.start()
    code = main(annotate.JOB, ["--config", str(folder / "annotate.yaml"), "--out", str(folder / "run")])
    watch.end()
    summary = json.loads((folder / "run/summary.json").read_text())
    judgements = summary["judgements"] - summary["missing"]
    return {
        "exit_code": code,
        "judgements": judgements,
        "annotators": watch.annotators,
        "gpu_nodes_at_most": watch.most,
    }


def tiny_pool(folder: Path, models: int, actors: int) -> list[dict[str, Any]]:
    from lm_models import save_tiny_model
    from transformers import LlamaConfig

    return [
        {
            "annotator": f"model-{k}",
            "kind": "transformers",
            "source": save_tiny_model(folder / f"model-{k}", LlamaConfig),
            "num_gpus": 1,
            "actors": [actors, actors],
        }
        for k in range(models)
    ]


def spread(folder: Path) -> dict[str, Any]:
    """Three models judge, then five agents are hosted, on five nodes with one GPU each."""
    import ray
    from ray.cluster_utils import Cluster
    from serve_models import save_tiny_runs

    from actors.moral_agent import host
    from consilience.values.answer_settings import AnswerConfig
    from consilience.values.saved import read_adapters

    pool = tiny_pool(folder, 3, 1)
    saved = read_adapters(Path(str(save_tiny_runs(folder / "values", VALUES)["agents"])))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(5):
        cluster.add_node(num_cpus=2, num_gpus=1)
    cluster.connect()
    found = {"gpu_nodes": gpu_nodes(), **judge(folder, pool)}
    agents = host(saved, apart=True, num_gpus=1)
    config = AnswerConfig(max_new_tokens=2)
    ray.get([agent.answer.remote(["May I?"], [name], config) for name, agent in agents.items()])
    found["agents"] = ray.get([agent.__ray_call__.remote(where) for agent in agents.values()])
    ray.shutdown()
    cluster.shutdown()
    return found


def where(actor: Any) -> str:
    """The node that an actor is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def autoscaled(folder: Path) -> dict[str, Any]:
    """One model with two actors judges on a cluster that has no GPU yet."""
    import ray

    deadline = time.monotonic() + 240
    while True:
        try:
            ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
            break
        except ConnectionError:
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(1)
    before = len(gpu_nodes())
    found = {"gpu_nodes_before": before, **judge(folder, tiny_pool(folder, 1, 2))}
    deadline = time.monotonic() + 120
    while gpu_nodes() and time.monotonic() < deadline:
        time.sleep(1)
    return {**found, "gpu_nodes_after": len(gpu_nodes())}


if __name__ == "__main__":
    drivers = {"spread": spread, "autoscaled": autoscaled}
    place = Path(sys.argv[2])
    (place / "found.json").write_text(json.dumps(drivers[sys.argv[1]](place)))

"""A machine is lost: a worker node, or the head and all that runs on it. Results are those of an undisturbed run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import own_cluster
import psutil
import pytest
from kills import at_work, wait_for
from own_cluster import Nodes
from small_jobs import ROOT, Case, cells

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    with (
        own_cluster.variables(folder) as environment,
        own_cluster.started([sys.executable, own_cluster.__file__], environment, folder / "log", pipes=True) as process,
    ):
        yield Nodes(process, environment)


@pytest.mark.parametrize(("job", "part"), cells("worker node"))
def test_a_lost_node_takes_no_result_with_it(
    case: Case, job: str, part: str, nodes: Nodes, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The node where the work is done; the driver is on the head. The job ends, or the same command ends it."""
    out, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", f"jobs.{job}", *case.arguments(out)]
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.address}
    host = case.small.nodes or case.small.last
    with own_cluster.started(command, environment, log) as driver:
        found = wait_for(lambda: nodes.away_from_head(at_work(host, out, nodes.root)), lambda: driver.poll() is None)
        nodes.lose(found[0])
        status = driver.wait(300)
    if status != 0:
        assert "the same command resumes it" in log.read_text()
        record_property("outcome", "resumed")
        with own_cluster.started(command, environment, log) as driver:
            assert driver.wait(300) == 0, log.read_text()
    case.check(out)


@pytest.mark.parametrize(("job", "part"), cells("head", "resumed"))
def test_a_lost_head_has_the_job_submitted_again(case: Case, job: str, part: str, tmp_path: Path) -> None:
    """A new head knows nothing of the old one; the run folder, on a disk that outlives them, is all there is."""
    out = tmp_path / "run"
    work = ["--", "env", "-C", str(ROOT), "python", "-m", f"jobs.{job}", *case.arguments(out)]
    with own_cluster.variables(tmp_path) as environment:

        def submit(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
            command = ["ray", "job", "submit", "--address", address, *options, *work]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

        with own_cluster.head(environment, tmp_path) as (address, process):
            submitted = submit(address, "--no-wait")
            assert submitted.returncode == 0, submitted.stdout + submitted.stderr
            root = psutil.Process(process.pid)
            wait_for(lambda: at_work(case.small.last, out, root), lambda: not (out / "summary.json").exists())
            own_cluster.kill_all(process)
        assert not (out / "summary.json").exists()
        with own_cluster.head(environment, tmp_path) as (address, _):
            again = submit(address)
            assert again.returncode == 0, again.stdout + again.stderr
    case.check(out)

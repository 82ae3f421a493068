"""The local cluster is closed to everybody else."""

import os

import psutil
import pytest

from actors.cluster import connect
from consilience.errors import UserError

pytestmark = pytest.mark.usefixtures("cluster")


def test_nothing_listens_beyond_loopback() -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert os.environ.get("RAY_AUTH_MODE", "token") == "token"


@pytest.mark.parametrize(("needs", "key"), [({"cpus": 10_000}, "num_cpus"), ({"gpus": 1_000}, "num_gpus")])
def test_work_that_a_local_cluster_has_no_room_for_does_not_wait(needs: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: .* wanted at once, .* here; expected no more"):
        connect(**needs)
    connect(cpus=1)

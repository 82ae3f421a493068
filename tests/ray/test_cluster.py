"""The local cluster is closed to everybody else."""

import os

import psutil
import pytest

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

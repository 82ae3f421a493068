"""Serve's replicas listen for one another on every interface, even where the rest of Ray stays on loopback."""

from typing import Any

from ray.serve._private import replica
from ray.util import get_node_ip_address

LOOPBACK = "127.0.0.1"


def stay_on_loopback() -> None:
    """Called in a replica's constructor, before its server starts: listen on loopback, if that is the node's address.

    Ray 2.60 writes the address into the code. The port asks for the cluster's token in any case.
    """
    if get_node_ip_address() == LOOPBACK:  # type: ignore[no-untyped-call]
        module: Any = replica
        add_port = module.add_port_to_grpc_server
        module.add_port_to_grpc_server = lambda server, address: add_port(server, f"{LOOPBACK}:0")

"""`make serve`: a cluster of its own on loopback, the application on it, and a token if none is given.

python -m serve_app --config configs/serve.yaml [--set key.path=value ...]
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from consilience.config import load_config
from consilience.errors import UserError
from serve_app.config import ServeConfig
from serve_app.tokens import FILE_VARIABLE, VARIABLE, hash_token, new_token, read_hashes


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 0 stopped, 2 the user's mistake, 1 where Ray Serve does not come up in time."""
    parser = argparse.ArgumentParser(prog="python -m serve_app", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML; keys: docs/serving.md")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override a config key")
    arguments = parser.parse_args(argv)
    try:
        config = load_config(ServeConfig, arguments.config, arguments.set)
        token, hashes = None, read_hashes()
        if not hashes:
            token = new_token()
            hashes = (hash_token(token),)
        for variable in (VARIABLE, FILE_VARIABLE):
            os.environ.pop(variable, None)  # or every process of the cluster would inherit it
        _serve(config, hashes, token)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TimeoutError as error:  # Ray Serve gives its proxy a minute
        print(f"error: {error} Stop other work on this machine and start again.", file=sys.stderr)
        return 1
    return 0


def _serve(config: ServeConfig, hashes: Sequence[str], token: str | None) -> None:
    # Here, because Ray takes seconds to import and a mistake should be told at once.
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    from actors.cluster import connect
    from serve_app.app import bind

    address = config.address
    _check_free(address.host, address.port)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # in this process; the replicas log to files
    print("starting ...", flush=True)
    connect()
    try:
        serve.start(ProxyLocation.HeadOnly, HTTPOptions(host=address.host, port=address.port))
        serve.run(bind(config, hashes), name="consilience", route_prefix="/")
        print(f"Consilience: http://{address.host}:{address.port}")
        if token is not None:
            print(f"token, shown this once: {token}")
        print("Ctrl-C stops it", flush=True)
        stop.wait()
        print("stopping ...", flush=True)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on: {error.strerror}; choose another with --set address.port=PORT"
            ) from None


if __name__ == "__main__":
    sys.exit(main())

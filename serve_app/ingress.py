"""The ingress deployment: puts the parts behind Serve's handles together and shows them over HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from consilience.config import parse_config
from consilience.consensus.model import ConsensusModel
from serve_app.answering import Answering
from serve_app.config import Limits
from serve_app.judging import JudgeHandle, Judging
from serve_app.loopback import stay_on_loopback
from serve_app.metrics import Metrics
from serve_app.routes import make_app
from serve_app.service import Service


@serve.ingress()
class Ingress:
    """One process that validates, routes and composes; it holds the saved consensus, and no language model."""

    def __init__(
        self,
        hashes: Sequence[str],
        missing: dict[str, str],
        consensus: Path | None,
        judges: Sequence[tuple[Any, tuple[str, ...]]],
        agents: Mapping[str, Any],
        aggregator: Any,
    ) -> None:
        """
        Args:
            hashes: of the tokens that are let in.
            missing: part to what to run, for those that are not there.
            consensus: the saved consensus that weighs the judges.
            judges: a handle and the annotators behind it, for each deployment of judges.
            agents: agent to handle.
            aggregator: its handle.
        """
        stay_on_loopback()
        metrics = Metrics()
        answering = None if "answer" in missing else Answering(agents, aggregator, metrics)
        judging = None
        if consensus is not None and "judge" not in missing:
            model = ConsensusModel.load(consensus)
            judging = Judging(model, [JudgeHandle(handle, names) for handle, names in judges], metrics)
        self._hashes = hashes
        self._service = Service(answering, judging, missing, metrics=metrics, down=deployments_down)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take other limits; requests that are being answered keep theirs."""
        self._service.limits = parse_config(Limits, user_config, "user_config of the ingress")

    def __serve_build_asgi_app__(self) -> FastAPI:  # Serve's name for it
        return make_app(self._service, self._hashes, node_metrics)


async def deployments_down() -> set[str]:
    """The deployments of this application of which no replica runs; none, where the controller does not say."""
    application = serve.get_replica_context().app_name
    try:
        async with asyncio.timeout(3):
            status = await asyncio.to_thread(serve.status)
        deployments = status.applications[application].deployments
    except (RayError, RayServeException, TimeoutError, KeyError):
        return set()
    running = {name for name, found in deployments.items() if any(state == "RUNNING" for state in found.replica_states)}
    return set(deployments) - running


async def node_metrics() -> str:
    """What Ray exports on this node about this service and about Serve."""
    here = ray.get_runtime_context().get_node_id()
    nodes: Any = ray.nodes
    (node,) = [node for node in nodes() if node["NodeID"] == here]
    async with httpx2.AsyncClient(timeout=5) as client:
        response = await client.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
    lines = [line for line in response.text.splitlines() if "ray_consilience_" in line or "ray_serve_" in line]
    return "\n".join(lines) + "\n"

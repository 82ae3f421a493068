"""The application's builder, for `serve run`, `serve deploy` and `make serve`.

serve run serve_app.app:build config=configs/serve.yaml
serve deploy configs/serve-production.yaml
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from consilience.config import load_config, parse_config
from consilience.errors import UserError
from consilience.lm.annotator_block import ModelBlock
from consilience.lm.annotators import AnnotatorConfig, SyntheticAnnotator
from consilience.lm.pool import check
from consilience.runs import read_manifest
from consilience.values.saved import read_adapters
from serve_app.config import Part, ServeConfig
from serve_app.ingress import Ingress
from serve_app.models import Aggregator, Judge, MoralAgents
from serve_app.tokens import FILE_VARIABLE, VARIABLE, read_hashes

log = logging.getLogger("ray.serve")

CONSENSUS_FILE = "consensus_model.json"

_MODEL = {
    "max_ongoing_requests": 32,
    "max_queued_requests": 64,
    "graceful_shutdown_timeout_s": 60,
    "ray_actor_options": {"num_cpus": 0.1},
}
DEFAULTS: dict[Part, dict[str, Any]] = {
    "Ingress": {
        "max_ongoing_requests": 128,
        "max_queued_requests": 128,
        "graceful_shutdown_timeout_s": 60,
        "backpressure_config": {"status_code": 503, "retry_after_s": 2},
        "ray_actor_options": {"num_cpus": 0},
    },
    "Agents": _MODEL,
    "Aggregator": _MODEL,
    "Judge": _MODEL,
}
"""Options of the deployments where the config gives none: every queue is bounded."""


def build(args: dict[str, Any]) -> Application:
    """The application.

    Args:
        args: `config`, a YAML file with the keys of `ServeConfig`, or these keys themselves.

    Raises:
        UserError: a mistake in the config, no token in the environment, or a run folder that is damaged. One that is
            not there is none: its part answers 503.
    """
    if set(args) == {"config"}:
        config = load_config(ServeConfig, Path(args["config"]))
    else:
        config = parse_config(ServeConfig, args, "arguments of the application")
    hashes = read_hashes()
    if not hashes:
        raise UserError(f"no token: set {VARIABLE}, or {FILE_VARIABLE} to a file with a token on each line")
    return bind(config, hashes)


def bind(config: ServeConfig, hashes: Sequence[str]) -> Application:
    """The application that lets in the tokens with these hashes."""
    missing = _missing(config)
    agents: dict[str, Application] = {}
    aggregator: Application | None = None
    if "answer" not in missing:
        agents, aggregator = _answering(config)
    judges: list[tuple[Application, tuple[str, ...]]] = []
    consensus = None
    if config.consensus is not None and "judge" not in missing:
        consensus = (config.consensus / CONSENSUS_FILE).absolute()
        judges = _judges(config)
    ingress = _deployment(Ingress, "Ingress", "Ingress", config, config.limits.model_dump())
    return ingress.bind(tuple(hashes), missing, consensus, judges, agents, aggregator)


def _missing(config: ServeConfig) -> dict[str, str]:
    """Part to what to run, where a folder that it needs is not named or not there."""
    missing = {}
    wanted = {"agents": (config.agents, "adapters.json"), "aggregator": (config.aggregator, "adapters.json")}
    for key, (folder, file) in wanted.items():
        if folder is None or not (folder / file).is_file():
            missing["answer"] = _what_to_run(key, folder, "make demo-values")
            break
    if config.consensus is None or not (config.consensus / CONSENSUS_FILE).is_file():
        missing["judge"] = _what_to_run("consensus", config.consensus, "make demo")
    return missing


def _what_to_run(key: str, folder: Path | None, target: str) -> str:
    place = f"'{key}' is not in the service's config" if folder is None else f"{folder} holds no finished run"
    return f"not set up: {place}; run `{target}` and start the service again"


def _answering(config: ServeConfig) -> tuple[dict[str, Application], Application]:
    """Agent to its deployment, and the aggregator's."""
    assert config.agents is not None
    assert config.aggregator is not None
    saved = read_adapters(config.agents.absolute())
    rewards = None
    if config.rewards is not None and (config.rewards / "manifest.json").is_file():
        rewards = config.rewards.absolute()
    batching = config.batching.model_dump()
    if config.apart:
        agents = {}
        for name, place in saved.adapters.items():
            alone = replace(saved, adapters={name: place})
            deployment = _deployment(MoralAgents, f"Agent-{name}", "Agents", config, batching)
            agents[name] = deployment.bind(alone, rewards, config.engine)
    else:
        deployment = _deployment(MoralAgents, "Agents", "Agents", config, batching)
        agents = dict.fromkeys(saved.adapters, deployment.bind(saved, rewards, config.engine))
    aggregator = _deployment(Aggregator, "Aggregator", "Aggregator", config, batching)
    return agents, aggregator.bind(read_adapters(config.aggregator.absolute()), config.engine)


def _judges(config: ServeConfig) -> list[tuple[Application, tuple[str, ...]]]:
    """A deployment for every model of the pool, one for all that need none, and the annotators that each hosts."""
    groups: dict[tuple[Any, ...], list[AnnotatorConfig]] = {}
    for annotator in _pool(config):
        key: tuple[Any, ...] = (annotator.annotator,)
        if isinstance(annotator, ModelBlock):
            key = (annotator.kind, annotator.source, annotator.revision)
        elif isinstance(annotator, SyntheticAnnotator):
            key = (annotator.kind,)
        groups.setdefault(key, []).append(annotator)
    judges = []
    for group in groups.values():
        deployment = _deployment(Judge, f"Judge-{group[0].annotator}", "Judge", config, config.batching.model_dump())
        names = tuple(annotator.annotator for annotator in group)
        judges.append((deployment.bind(tuple(group)), names))
    return judges


def _pool(config: ServeConfig) -> tuple[AnnotatorConfig, ...]:
    if config.pool is not None:
        pool = config.pool
    else:
        assert config.consensus is not None
        run = read_manifest(config.consensus)["config"]
        if "pool" not in run:
            raise UserError(
                f"{config.consensus}: its annotators are not known; expected 'pool' in the service's config"
            )
        pool = TypeAdapter(tuple[AnnotatorConfig, ...]).validate_python(run["pool"])
    for annotator in pool:
        try:
            check(annotator)
        except UserError as error:
            log.warning("annotator %s will be missing: %s", annotator.annotator, error)
    return pool


def _deployment(kind: Any, name: str, part: Part, config: ServeConfig, user_config: dict[str, Any]) -> Any:
    options = {**DEFAULTS[part], **config.deployments.get(part, {})}
    deployment: Any = serve.deployment(kind)
    return deployment.options(
        name=name, user_config=user_config, logging_config=LoggingConfig(encoding="JSON"), **options
    )

"""What the builder makes of a config; that the shipped configs and the dashboard fit what is built and measured."""

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from ray.serve._private.constants import HTTP_PROXY_TIMEOUT
from ray.serve.schema import ServeDeploySchema
from serve_fakes import small_consensus

import serve_app.__main__ as command
from consilience.config import load_config, parse_config
from consilience.errors import UserError
from consilience.values.saved import SavedAdapters
from serve_app import app
from serve_app.config import Limits, ServeConfig

ROOT = Path(__file__).parents[2]
HASHES = ["0" * 64]


def test_the_shipped_config_starts_with_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(ServeConfig, ROOT / "configs/serve.yaml")
    assert config.address.host == "127.0.0.1"
    monkeypatch.chdir(tmp_path)
    missing = app._missing(config)
    assert missing["judge"] == (
        "not set up: runs/demo holds no finished run; run `make demo` and start the service again"
    )
    assert "run `make demo-values`" in missing["answer"]
    assert "'agents' is not in the service's config" in app._missing(ServeConfig())["answer"]
    app.bind(config, HASHES)


def test_an_answer_of_the_usual_length_is_not_too_long() -> None:
    with pytest.raises(UserError, match=r"limits.*answer_tokens 64: more than max_tokens 32"):
        parse_config(ServeConfig, {"limits": {"max_tokens": 32}}, "args")


def test_annotators_that_share_a_model_share_a_deployment(tmp_path: Path) -> None:
    small_consensus().save(tmp_path / "consensus_model.json")
    run = {"job": "pipeline", "config": yaml.safe_load((ROOT / "configs/demo.yaml").read_text())}
    (tmp_path / "manifest.json").write_text(json.dumps(run))
    judges = app._judges(ServeConfig(consensus=tmp_path))
    assert [names for _, names in judges] == [
        ("smollm2", "smollm2-nurse", "smollm2-judge"),
        ("gemma3", "gemma3-neighbour"),
        ("random01",),
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"job": "aggregate", "config": {}}))
    with pytest.raises(UserError, match="expected 'pool' in the service's config"):
        app._judges(ServeConfig(consensus=tmp_path))


def test_the_production_config_is_serves_schema_and_names_deployments_that_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = yaml.safe_load((ROOT / "configs/serve-production.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(raw).applications
    config = parse_config(ServeConfig, application.args, "args")
    for deployment in application.deployments:
        assert deployment.name in app.DEFAULTS
        if deployment.name == "Ingress":
            parse_config(Limits, deployment.user_config, "user_config")
    saved = SavedAdapters(None, "", {"care": Path("a"), "loyalty": Path("b")}, {}, {})  # type: ignore[arg-type]
    monkeypatch.setattr(app, "read_adapters", lambda folder: saved)
    agents, _ = app._answering(config)
    assert {name: bound._bound_deployment.name for name, bound in agents.items()} == {
        "care": "Agent-care",
        "loyalty": "Agent-loyalty",
    }


def test_the_builder_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CONSILIENCE_TOKEN", "CONSILIENCE_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="no token: set CONSILIENCE_TOKEN"):
        app.build({})
    monkeypatch.setenv("CONSILIENCE_TOKEN", "0123456789abcdef")
    app.build({"config": str(ROOT / "configs/serve.yaml")})
    with pytest.raises(UserError, match="unknown key 'agent'"):
        app.build({"agent": "x"})


def test_mistakes_at_the_command_line_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIENCE_TOKEN", "short")
    assert command.main(["--config", str(ROOT / "configs/serve.yaml")]) == 2
    assert command.main(["--config", "nowhere.yaml"]) == 2
    assert command.main(["--config", str(ROOT / "configs/serve.yaml"), "--set", "limits.max_token=3"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: CONSILIENCE_TOKEN: expected a token of 16 or more printable ASCII characters without spaces",
        "error: nowhere.yaml: no such config file",
        f"error: {ROOT}/configs/serve.yaml: unknown key 'limits.max_token'; known keys here: "
        + ", ".join(sorted(Limits.model_fields)),
    ]


def test_a_machine_too_busy_for_ray_serve_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise TimeoutError(f"HTTP proxies not available after {HTTP_PROXY_TIMEOUT}s.")  # as Ray does

    stopped: list[str] = []
    monkeypatch.setattr(command, "_check_free", lambda *_: None)
    monkeypatch.setattr("actors.cluster.connect", lambda: None)
    monkeypatch.setattr("ray.serve.start", start)
    for name in ("ray.serve.shutdown", "ray.shutdown"):
        monkeypatch.setattr(name, lambda name=name: stopped.append(name))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert command.main(["--config", str(ROOT / "configs/serve.yaml")]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err.splitlines() == [
        "error: HTTP proxies not available after 60s. Stop other work on this machine and start again."
    ]
    assert stopped == ["ray.serve.shutdown", "ray.shutdown"]


def test_the_dashboard_shows_what_is_measured() -> None:
    board = json.loads((ROOT / "cluster/grafana-serve.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    measured = set(re.findall(r'"(consilience_\w+)"', (ROOT / "serve_app/metrics.py").read_text()))
    shown = set(re.findall(r"ray_(consilience_[a-z_]+?)(?:_total|_bucket)?[\[{)]", " ".join(queries)))
    assert shown == measured
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)

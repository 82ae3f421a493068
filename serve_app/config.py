"""What the service is told: which run folders it serves, its limits, and the size of each deployment."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from consilience.config import Config
from consilience.lm.annotators import AnnotatorConfig

Engine = Literal["auto", "transformers", "vllm"]
Part = Literal["Ingress", "Agents", "Aggregator", "Judge"]


class Limits(Config):
    """What a request may ask for. Serve's `user_config` of the ingress: changed without a restart."""

    body_bytes: int = Field(65_536, ge=1_024, description="largest body of a request")
    body_timeout_s: float = Field(10, gt=0, description="longest that a client may take to send its body")
    question_chars: int = Field(4_000, ge=1, description="longest question")
    dilemma_chars: int = Field(12_000, ge=1, description="longest dilemma")
    max_tokens: int = Field(256, ge=1, description="longest answer that may be asked for")
    answer_tokens: int = Field(64, ge=1, description="longest answer where a request does not say")
    agent_tokens: int = Field(48, ge=1, description="longest answer of a consulted agent")
    requests_per_minute: int = Field(120, ge=1, description="per token and ingress replica")
    request_timeout_s: float = Field(120, gt=0, description="longest that an answer may take")
    retry_after_s: int = Field(2, ge=1, description="told to those who are refused because the service is busy")
    max_split: float = Field(0.25, gt=0, le=0.5, description="spread (sd) of the witnesses above which no verdict")
    min_witnesses: int = Field(2, ge=1, description="annotators with a score below which no verdict")
    log_prompts: bool = Field(False, description="write questions and dilemmas to the log")

    @model_validator(mode="after")
    def _default_is_allowed(self) -> "Limits":
        if self.answer_tokens > self.max_tokens:
            raise ValueError(f"answer_tokens {self.answer_tokens}: more than max_tokens {self.max_tokens}")
        return self


class Batching(Config):
    """How requests to one model are put together. Serve's `user_config` of agents, aggregator and judges."""

    max_batch_size: int = Field(16, ge=1, description="replies or dilemmas side by side")
    batch_wait_timeout_s: float = Field(0.02, ge=0, description="how long the first waits for others")


class Address(Config):
    """Where `make serve` listens."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)


class ServeConfig(Config):
    """The service. A part whose folder is not named, or not there, answers 503 and says what to run."""

    consensus: Path | None = Field(None, description="run folder of pipeline; of aggregate, with `pool`")
    pool: tuple[AnnotatorConfig, ...] | None = Field(None, description="annotators; default: those of that run")
    agents: Path | None = Field(None, description="run folder of train_agents")
    aggregator: Path | None = Field(None, description="run folder of train_aggregator")
    rewards: Path | None = Field(None, description="run folder of train_values; without it answers have no reward")
    apart: bool = Field(False, description="a deployment, and so a base and a GPU, for each agent")
    engine: Engine = Field("auto", description="of agents and aggregator; auto: vllm where there is one and a GPU")
    limits: Limits = Limits()
    batching: Batching = Batching()
    address: Address = Address()
    deployments: dict[Part, dict[str, Any]] = Field(
        default_factory=dict, description="options of Serve deployments; see DEFAULTS in serve_app/app.py"
    )

"""What the service counts, for Prometheus. Ray exports it on every node; its own Serve metrics stand beside it."""

from typing import Any

from ray.serve import metrics

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 2, 4, 8, 16, 32, 64, 128]


class Metrics:
    """Counters of one ingress replica; the names begin with `ray_consilience_` where Prometheus reads them."""

    def __init__(self) -> None:
        counter: Any = metrics.Counter  # whose type lets a tuple have one key only
        self._refusals = counter(
            "consilience_refusals", description="Requests that got an error for an answer.", tag_keys=("code",)
        )
        self._seconds = metrics.Histogram(
            "consilience_model_seconds",
            description="Seconds from asking a model to its last token, or to its judgement.",
            boundaries=_SECONDS,
            tag_keys=("model",),
        )
        self._tokens = counter("consilience_tokens", description="Tokens read and written.", tag_keys=("model", "kind"))
        self._missing = counter(
            "consilience_missing", description="Agents and annotators that gave no answer.", tag_keys=("model",)
        )
        self._verdicts = counter(
            "consilience_verdicts", description="Verdicts, given and withheld.", tag_keys=("theory", "abstain")
        )
        self._in_flight = metrics.Gauge(
            "consilience_in_flight", description="Requests that are being answered.", tag_keys=("kind",)
        )

    def refused(self, code: str) -> None:
        self._refusals.inc(tags={"code": code})

    def wrote(self, model: str, seconds: float, prompt_tokens: int, tokens: int) -> None:
        self.took(model, seconds)
        for kind, count in (("read", prompt_tokens), ("written", tokens)):
            if count:
                self._tokens.inc(count, tags={"model": model, "kind": kind})

    def took(self, model: str, seconds: float) -> None:
        self._seconds.observe(seconds, tags={"model": model})

    def missing(self, model: str) -> None:
        self._missing.inc(tags={"model": model})

    def verdict(self, theory: str, abstain: bool) -> None:
        self._verdicts.inc(tags={"theory": theory, "abstain": str(abstain).lower()})

    def in_flight(self, kind: str, count: int) -> None:
        self._in_flight.set(count, tags={"kind": kind})

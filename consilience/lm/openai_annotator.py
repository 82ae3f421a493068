"""The `openai` annotator: any server with OpenAI's chat completions. Its config, its key, what it is asked."""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from consilience.errors import UserError
from consilience.files import digest_json
from consilience.lm.annotator_block import AnnotatorBlock, Elicitation
from consilience.lm.prompts import question, task
from consilience.theories import THEORIES, Theory

_TEMPLATE_TOKENS = 256
"""Tokens that a server may add to the messages: roles, and the system text of some chat templates."""
_MARK = re.compile(r"<(?=[/|\uff5c]?[^\W\d_])|\[(?=/?[A-Z_]+\])")
"""How the control tokens of chat templates begin: <|im_end|>, <start_of_turn>, </s>, [INST]."""


class OpenAIAnnotator(AnnotatorBlock):
    """A model behind an OpenAI-compatible server, answering at temperature 0."""

    kind: Literal["openai"]
    base_url: str = Field(description="address up to and with the version, e.g. https://api.openai.com/v1")
    model: str = Field(min_length=1, description="the model's name on that server; a dated one where there is one")
    key_env: str | None = Field(None, description="environment variable that holds the key, e.g. OPENAI_API_KEY")
    key_file: Path | None = Field(None, description="file that holds the key alone")
    persona: str | None = Field(None, description="who the model answers as, e.g. 'a hospital nurse'")
    elicitation: Elicitation = "yes_no"
    max_tokens: int = Field(8, ge=4, description="longest reply; some more than the answer, so that a cut is seen")
    timeout: float = Field(60, gt=0, description="seconds for one request in all")
    concurrency: int = Field(8, ge=1, description="requests in flight")
    requests_per_minute: float = Field(600, gt=0, description="most requests a minute, retries among them")
    max_retries: int = Field(5, ge=0, description="further attempts at a judgement whose request failed")
    usd_per_million_input: float = Field(0, ge=0, description="price of a million tokens of prompt")
    usd_per_million_output: float = Field(0, ge=0, description="price of a million tokens of reply")
    cost_cap_usd: float | None = Field(None, gt=0, description="most to spend on this annotator in one run folder")

    # Checked together, not field by field: the message for a single field shows what was written there.
    @model_validator(mode="after")
    def _keep_secrets_out(self) -> Self:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url must begin with http:// or https:// and a host")
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("base_url must be an address alone, without credentials, query or fragment")
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            raise ValueError("key_env must be the name of an environment variable in capitals, never the key itself")
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_env and key_file are both given; expected one")
        return self

    @model_validator(mode="after")
    def _cap_needs_prices(self) -> Self:
        if self.cost_cap_usd is not None and not (self.usd_per_million_input and self.usd_per_million_output):
            raise ValueError("cost_cap_usd needs usd_per_million_input and usd_per_million_output")
        return self


def read_key(config: OpenAIAnnotator) -> SecretStr | None:
    """The key, or None for a server that asks for none.

    Raises:
        UserError: the variable is not set, the file cannot be read, or what is there cannot be a key.
    """
    if config.key_env is not None:
        origin = f"environment variable {config.key_env}"
        if (text := os.environ.get(config.key_env)) is None:
            raise UserError(f"annotator '{config.annotator}': {origin} is not set; expected a key")
    elif config.key_file is not None:
        origin = str(config.key_file)
        try:
            text = config.key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"annotator '{config.annotator}': {origin} cannot be read; expected a key") from None
    else:
        return None
    # One that a header cannot hold would be shown by the error that says so; a quote hides it in JSON.
    if not re.fullmatch(r"[!#-\[\]-~]+", text.strip()):
        raise UserError(f"annotator '{config.annotator}': {origin} holds no key; expected one word of ASCII characters")
    return SecretStr(text.strip())


def request_body(config: OpenAIAnnotator, dilemma: str, theory: Theory) -> dict[str, Any]:
    """The request for one judgement.

    The words are those that local models read (`prompts.task`): the dilemma in a block of the user's turn that it
    cannot close, the theory last, so that a server with a prefix cache reads each dilemma once. Servers there are that
    read a control token wherever its letters stand; so what could be one begins with another bracket.
    """
    unmarked = _MARK.sub(lambda mark: "\u2039" if mark[0] == "<" else "\u2045", dilemma)
    user = task(unmarked, question(theory, config.elicitation))
    persona = [{"role": "system", "content": f"You are {config.persona}."}] if config.persona else []
    return {
        "model": config.model,
        "messages": [*persona, {"role": "user", "content": user}],
        "temperature": 0,
        "max_tokens": config.max_tokens,
        "logprobs": True,
        "top_logprobs": 20,
    }


def request_digest(config: OpenAIAnnotator) -> str:
    """Digest of all that decides an answer but the dilemma: server, model, persona, wording, parameters.

    Keys, prices, limits and time-outs are not in it: changing them makes no judgement invalid.
    """
    return digest_json([config.base_url.rstrip("/"), [request_body(config, "", theory) for theory in THEORIES]])


def price_bound(config: OpenAIAnnotator, body: dict[str, Any]) -> float:
    """Most that one request can cost, in US dollars: no tokeniser makes more tokens than there are bytes."""
    tokens = _TEMPLATE_TOKENS + sum(len(message["content"].encode()) for message in body["messages"])
    return (tokens * config.usd_per_million_input + config.max_tokens * config.usd_per_million_output) / 1e6

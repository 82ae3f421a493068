"""The one base model that all agents and the aggregator share, as a config names it."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from consilience.config import Config
from consilience.files import digest_json
from consilience.lm.sources import open_source

if TYPE_CHECKING:
    from consilience.lm.language_model import LanguageModel


class BaseConfig(Config):
    """A causal language model, by source (see `lm.sources`)."""

    source: str = Field(description="hub id, local folder, or package:MODULE/FILE.gguf")
    revision: str | None = Field(None, description="commit of a hub id; required for hub ids")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


def base_digest(config: BaseConfig) -> str:
    """Hexadecimal digest of all that decides what the base says: weights, tokeniser, template, precision."""
    files = open_source(config.source, config.revision)
    return digest_json([files.digest, files.settings_digest, config.dtype])


def load_own(config: BaseConfig) -> "LanguageModel":
    """The base, loaded anew: adapters change a model in place, so those who put them on it do not share it."""
    # Here, because torch takes seconds to import and a config needs none of it.
    from consilience.lm.language_model import load_model

    return load_model.__wrapped__(config.source, config.revision, config.dtype)

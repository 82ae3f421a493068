"""A text encoder as a config names it, checked before anything rests on it."""

from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from consilience.errors import UserError, first_line
from consilience.lm.sources import open_source
from consilience.values.settings import EncoderConfig


def load_encoder(config: EncoderConfig) -> tuple[Any, Any]:
    """The encoder as it comes, float32, and its tokeniser.

    Raises:
        UserError: the source cannot be had, is no text encoder, lacks weights (which would be drawn at random), or
            reads fewer tokens than asked for.
    """
    files = open_source(config.source, config.revision)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of a pooler that is not there: nothing reads it, but it is saved with the rest
            model, report = AutoModel.from_pretrained(
                files.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except ValueError as error:
        raise UserError(f"encoder '{config.source}': not a text encoder: {first_line(error)}") from None
    if missing := [name for name in report["missing_keys"] if "pooler" not in name]:
        raise UserError(f"encoder '{config.source}': not a whole text encoder, it has no {min(missing)}")
    window = getattr(model.config, "max_position_embeddings", None)
    if not hasattr(model.config, "hidden_size") or (window is not None and window < config.max_tokens):
        raise UserError(f"encoder '{config.source}': cannot read max_tokens = {config.max_tokens} of text at once")
    return model.eval(), AutoTokenizer.from_pretrained(files.folder, local_files_only=True)

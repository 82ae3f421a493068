"""Text from a language model in this process, many prompts side by side."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from consilience.errors import UserError
from consilience.lm.language_model import LanguageModel
from consilience.lm.prompts import chat_form, encode, encode_data

_PROMPT = "[[prompt]]"


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """One reply per prompt.

    With a chat template a prompt is the user's turn and `system` the system's; without one the model goes on after
    `system` and the prompt, a line each.

    Args:
        model: see `language_model.load_model`.
        prompts: what is asked; data, in which no control token is recognised.
        system: how the model is to behave, the same for all prompts.
        max_new_tokens: longest reply in tokens; it ends earlier where the model ends it.
        temperature: 0 = always the likeliest token, else the softmax temperature of sampling.
        top_p: share of the probability that sampling draws from.
        seed: of the sampling; the same seed, prompts and batch size give the same replies.
        batch_size: prompts side by side.

    Raises:
        UserError: a prompt and its reply do not fit the model's window.
    """
    head, tail = _frame(model, system)
    rows = [torch.tensor([*head, *encode_data(model.tokeniser, prompt), *tail]) for prompt in prompts]
    longest = max(map(len, rows), default=0) + max_new_tokens
    if model.window is not None and longest > model.window:
        raise UserError(f"a prompt and its reply take {longest} tokens; the model reads {model.window} at most")
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    ends = generate_neutrally(model.model, model.tokeniser)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=temperature > 0, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], **sampling
    )
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    replies = [""] * len(rows)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            texts = _continue(model, [rows[index] for index in batch], settings)
            for index, text in zip(batch, texts, strict=True):
                replies[index] = text
    return replies


def generate_neutrally(model: PreTrainedModel, tokeniser: PreTrainedTokenizerBase) -> list[int]:
    """Let `model` generate by what a call says alone, and return its end tokens.

    What a call leaves open, transformers takes from the model's own settings, such as a penalty of repetition.

    Raises:
        UserError: see `end_tokens`.
    """
    ends = end_tokens(model.generation_config, tokeniser)
    pad = ends[0] if tokeniser.pad_token_id is None else tokeniser.pad_token_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends, pad_token_id=pad
    )
    return ends


def end_tokens(settings: GenerationConfig, tokeniser: PreTrainedTokenizerBase) -> list[int]:
    """What ends a response, in training and wherever the model answers later: its own ends, then the tokeniser's.

    Args:
        settings: of the model, as it was loaded.

    Raises:
        UserError: neither names one.
    """
    found = [end for ids in (settings.eos_token_id, tokeniser.eos_token_id) for end in _as_list(ids)]
    if not found:
        raise UserError("tokeniser: names no end-of-text token; expected eos_token")
    return list(dict.fromkeys(found))


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _frame(model: LanguageModel, system: str | None) -> tuple[list[int], list[int]]:
    """Token ids before and after a prompt."""
    tokeniser = model.tokeniser
    if tokeniser.chat_template is not None:
        head, tail = chat_form(tokeniser, _PROMPT, system).split(_PROMPT)
        return encode(tokeniser, head), encode(tokeniser, tail, after=".")
    start = [] if tokeniser.bos_token_id is None else [tokeniser.bos_token_id]
    return start + encode(tokeniser, f"{system}\n" if system else ""), encode(tokeniser, "\n", after=".")


def _continue(model: LanguageModel, rows: Sequence[torch.Tensor], settings: GenerationConfig) -> list[str]:
    """Replies to prompts that are padded on the left."""
    ids = pad_sequence(list(rows), batch_first=True, padding_side="left", padding_value=settings.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    with torch.inference_mode():
        output = model.model.generate(
            ids.to(model.model.device), attention_mask=mask.to(model.model.device), generation_config=settings
        )
    texts = model.tokeniser.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]

"""Drift: what theory tokens have become, and what else the model now says differently."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.utils.rnn import pad_sequence

from consilience.lm.language_model import LanguageModel
from consilience.lm.prompts import encode
from consilience.realign.theory_tokens import AppliedTokens, embed, swap_word

RELATED = ("law", "rule", "duty", "right", "good", "moral", "ethics", "principle", "reason", "bread", "river")
"""Words near a theory's, and two that are far from it: context for the t-SNE."""

WITH_WORD = (
    "The library has a whole shelf on {word}, from cheap paperbacks to heavy volumes bound in leather.",
    "She wrote {word} on the board, underlined it twice and asked how many letters it has.",
    "The crossword was nearly done; only {word} was missing in the last row.",
    "In spring the course on {word} moves to a bigger room, as forty students have signed up.",
    "He looked up {word} in three dictionaries and found three spellings of its root.",
    "The radio play about {word} won a prize for its sound.",
)
WITHOUT_WORD = (
    "The ferry leaves at seven and takes two hours to reach the island.",
    "Mix the flour with the butter, add a little cold water and let the dough rest.",
    "The old bridge was closed for repairs, so the bus went round by the mill.",
    "Copper conducts heat better than iron and costs more.",
    "They planted three apple trees behind the house and a hedge along the road.",
    "The second half began in heavy rain and ended without a goal.",
)
QUESTIONS = (
    ("What is the capital of France?", " Paris", " Berlin"),
    ("How many days are there in a week?", " seven", " nine"),
    ("Which animal barks?", " dog", " cat"),
    ("What do bees make?", " honey", " milk"),
    ("Which is larger, an elephant or a mouse?", " elephant", " mouse"),
    ("What colour is grass?", " green", " red"),
    ("In which season does snow fall?", " winter", " summer"),
    ("What is frozen water called?", " ice", " sand"),
    ("What is two plus three?", " five", " eight"),
    ("Which planet do people live on?", " Earth", " Mars"),
    ("What does a clock show?", " time", " weight"),
    ("Where do fish live?", " water", " trees"),
    ("What do you read?", " books", " shoes"),
    ("What comes after Monday?", " Tuesday", " Friday"),
    ("Which part of the body sees?", " eyes", " knees"),
    ("What is the opposite of hot?", " cold", " loud"),
)
_QUESTION = "From an examination in {word}.\nQuestion: {question}\nAnswer:"
_ANSWER_TOKENS = 12
_NEIGHBOURS = 6


def audit(model: LanguageModel, theory: str, word: Sequence[int], rows: Tensor, seed: int = 0) -> dict[str, Any]:
    """All measures for the tokens `rows` (N, width) that stand for the sub-tokens `word`; plain values, for JSON.

    Keys: `tokens` (nearest neighbours in the vocabulary and cosine to the original, per token), `tsne` (label, kind, x,
    y), `with_word`, `without_word` (perplexity before and after, share of answers of 12 tokens that are the same),
    `benchmark` (questions of general knowledge in a context that names the theory: share right, before and after).
    """
    applied = AppliedTokens(model.model, word, rows)
    try:
        with torch.inference_mode():
            return {
                "tokens": _neighbours(model, word, rows),
                "tsne": _tsne(model, word, rows, seed),
                "with_word": _texts(model, [text.format(word=theory) for text in WITH_WORD], word, applied.ids),
                "without_word": _texts(model, WITHOUT_WORD, word, applied.ids),
                "benchmark": _benchmark(model, theory, word, applied.ids),
            }
    finally:
        applied.remove()


def _neighbours(model: LanguageModel, word: Sequence[int], rows: Tensor) -> list[dict[str, Any]]:
    """Cosine does not depend on a scale that the embedding layer applies to all rows."""
    matrix = model.model.get_input_embeddings().weight.float()
    originals = matrix[list(word)]
    found = []
    for k, token in enumerate(word):
        sides = {}
        for side, row in (("before", originals[k]), ("after", rows[k].to(matrix.device))):
            cosine = cosine_similarity(matrix, row[None], dim=-1)
            cosine[token] = -1.0
            best = cosine[: len(model.tokeniser)].topk(_NEIGHBOURS)
            sides[side] = [
                {"token": model.tokeniser.decode([int(i)]), "cosine": float(value)}
                for value, i in zip(*best, strict=True)
            ]
        kept = float(cosine_similarity(originals[k], rows[k].to(matrix.device), dim=0))
        found.append({"original": model.tokeniser.decode([token]), "cosine": kept, **sides})
    return found


def _tsne(model: LanguageModel, word: Sequence[int], rows: Tensor, seed: int) -> list[dict[str, Any]]:
    """Two dimensions for original, optimised, related and neighbouring tokens; unit length, so that angles count."""
    originals = embed(model.model, word).float()
    points: list[tuple[str, str, Tensor]] = []
    for k, token in enumerate(word):
        name = str(model.tokeniser.decode([token])).strip()
        points += [(name, "original", originals[k]), (name, "optimised", rows[k].to(originals.device))]
    for other in RELATED:
        ids = encode(model.tokeniser, f" {other}", after="by")
        if len(ids) == 1:
            points.append((other, "related", embed(model.model, ids).float()[0]))
    matrix = torch.stack([row / row.norm() for _, _, row in points]).cpu().numpy()
    places = TSNE(perplexity=min(5.0, (len(points) - 1) / 3), init="pca", random_state=seed).fit_transform(matrix)
    return [
        {"label": label, "kind": kind, "x": float(x), "y": float(y)}
        for (label, kind, _), (x, y) in zip(points, places, strict=True)
    ]


def _texts(model: LanguageModel, texts: Sequence[str], word: Sequence[int], tokens: Sequence[int]) -> dict[str, Any]:
    """Perplexity of texts as they are and with the tokens in the word's place, and whether all logits are the same.

    What is predicted are the texts' own tokens: the new ones are never predicted.
    """
    nll = np.zeros(2)
    count = identical = 0
    originals = [encode(model.tokeniser, text) for text in texts]
    changed = [swap_word(ids, word, tokens) for ids in originals]
    for ids, new in zip(originals, changed, strict=True):
        logits = [_logits(model, row) for row in (ids, new)]
        aims = torch.tensor(ids[1:], device=logits[0].device)
        nll += [float(cross_entropy(found[:-1].float(), aims, reduction="sum")) for found in logits]
        count += len(ids) - 1
        identical += int(torch.equal(*logits))
    before, after = np.exp(nll / count).tolist()
    answers = _continue(model, [*originals, *changed]).view(2, len(texts), -1)
    return {
        "perplexity_before": before,
        "perplexity_after": after,
        "answers_same": (answers[0] == answers[1]).all(dim=-1).float().mean().item(),
        "logits_identical": identical / len(texts),
    }


def _logits(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    logits: Tensor = model.model(torch.tensor([ids], device=model.model.device), use_cache=False).logits[0]
    return logits


def _continue(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """(n, 12) most likely next tokens, all rows side by side.

    Not `generate`, some of whose steps look up every prompt token in the vocabulary.
    """
    parts = [torch.tensor(row, device=model.model.device) for row in rows]
    inputs = pad_sequence(parts, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True, padding_side="left")
    answers: list[Tensor] = []
    cache = None
    for _ in range(_ANSWER_TOKENS):
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        output = model.model(
            inputs, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = output.past_key_values
        inputs = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        answers.append(inputs)
        mask = torch.cat([mask, torch.ones_like(inputs)], dim=1)
    return torch.cat(answers, dim=1)


def _benchmark(model: LanguageModel, theory: str, word: Sequence[int], tokens: Sequence[int]) -> dict[str, Any]:
    right = np.zeros(2)
    for question, good, bad in QUESTIONS:
        ids = encode(model.tokeniser, _QUESTION.format(word=theory, question=question))
        choices = [encode(model.tokeniser, answer, after=":")[0] for answer in (good, bad)]
        for side, prompt in enumerate((ids, swap_word(ids, word, tokens))):
            last = _logits(model, prompt)[-1]
            right[side] += float(last[choices[0]] > last[choices[1]])
    before, after = (right / len(QUESTIONS)).tolist()
    return {"questions": len(QUESTIONS), "right_before": before, "right_after": after}

"""Scoring dilemmas with a model behind an OpenAI-compatible server."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anyio.from_thread import start_blocking_portal

from consilience.files import digest_json
from consilience.lm.ledger import Ledger
from consilience.lm.openai_annotator import OpenAIAnnotator, read_key, request_body
from consilience.lm.openai_client import ChatClient
from consilience.lm.openai_reply import read_reply
from consilience.lm.scorer import FAILED, Scores
from consilience.theories import Theory


class OpenAIScorer:
    """`scorer.Scorer` for one `openai` annotator.

    A score is independent of batch, order and concurrency as far as the server's answers are: each judgement is a
    request of its own. `answer_mass` is NaN where the server offers no log-probabilities.

    Args:
        config: the annotator.
        answers: folder for this annotator's paid answers. The cost cap holds for what is spent in it, over all
            processes that used it one after another.

    Raises:
        UserError: the key cannot be read.
    """

    def __init__(self, config: OpenAIAnnotator, answers: Path) -> None:
        self._config = config
        self._ledger = Ledger(answers)
        self._client = ChatClient(config, read_key(config), self._ledger)

    @property
    def cost_usd(self) -> float:
        """Spent so far on the answers in the folder, never less than the server charged; 0 without prices."""
        return self._ledger.cost_usd

    @property
    def stopped(self) -> str | None:
        """Why nothing is asked any more (key refused, cost cap, server silent), or None."""
        return self._client.stopped

    def score(self, dilemmas: Sequence[str], theories: Sequence[Theory]) -> Scores:
        """Judge every dilemma under every theory. One that failed or was left out for its cost is "failed".

        Raises:
            UserError: the folder of answers cannot be written.
        """
        bodies = [request_body(self._config, dilemma, theory) for dilemma in dilemmas for theory in theories]
        keys = [digest_json(body) for body in bodies]
        distinct = dict(zip(keys, bodies, strict=True))
        # A portal, not asyncio.run: it works where a loop already runs, as in a notebook.
        with start_blocking_portal() as portal:
            replies = dict(zip(distinct, portal.call(self._client.ask, list(distinct.values())), strict=True))
        shape = (len(dilemmas), len(theories))
        score, mass = np.full((2, len(bodies)), np.nan)
        status = np.full(len(bodies), FAILED, dtype=object)
        for cell, key in enumerate(keys):
            if (reply := replies[key]) is not None:
                judgement = read_reply(reply, self._config.elicitation)
                score[cell], mass[cell], status[cell] = judgement.score, judgement.answer_mass, judgement.status
        return Scores(score.reshape(shape), mass.reshape(shape), status.reshape(shape), self.stopped)

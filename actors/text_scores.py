"""Answers beside references, scored by a task on any node."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import ray

from consilience.values.bertscore import load_scorer
from consilience.values.evaluation_settings import ScoreEncoder
from consilience.values.text_overlap import rouge


@ray.remote
def score_texts(texts: Sequence[str], references: Sequence[str], encoder: ScoreEncoder) -> npt.NDArray[np.float64]:
    """(n, 5) of each text against its reference: the F1 of BERTScore, then ROUGE-1, -2, -L and -Lsum."""
    meaning = load_scorer(encoder)(texts, references)[:, 2:]
    overlaps = [rouge(text, reference) for text, reference in zip(texts, references, strict=True)]
    return np.hstack([meaning, np.array(overlaps).reshape(-1, 4)])

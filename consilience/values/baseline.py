"""What a value classifier must beat: the majority's answer, and a logistic regression on the words of a text."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline

Floats = NDArray[np.float64]

STRENGTHS = (0.1, 1.0, 10.0)


def majority(train: Floats, n: int) -> Floats:
    """(n,) the share of positive labels in training, for every text."""
    return np.full(n, np.mean(train))


def bag_of_words(
    train: tuple[Sequence[str], Floats], validation: tuple[Sequence[str], Floats], texts: Sequence[str]
) -> Floats:
    """(n,) probabilities of a logistic regression on TF-IDF of words and word pairs.

    Of three strengths of regularisation, the one with the least cross-entropy on validation is used.

    Args:
        train, validation: texts and their labels, 0 or 1; both labels occur in `train`.
    """
    fits = []
    for strength in STRENGTHS:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b")
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train[0], train[1])
        loss = log_loss(validation[1], model.predict_proba(validation[0])[:, 1], labels=[0, 1])
        fits.append((loss, strength, model))
    _, _, best = min(fits, key=lambda fit: fit[:2])
    found: Floats = best.predict_proba(texts)[:, 1]
    return found

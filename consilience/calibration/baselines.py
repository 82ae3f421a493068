"""What a model must beat: the prior, the majority, and the words themselves."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from consilience.calibration.tasks import VotedItems

Floats = NDArray[np.float64]

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of the inverse penalty, chosen on dev."""


def prior(train: VotedItems, n: int) -> Floats:
    """(n, k) the mean share of each option among the training items, for every item."""
    shares = (train.votes / train.votes.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.tile(np.maximum(shares, 1e-6) / np.maximum(shares, 1e-6).sum(), (n, 1))


def majority(train: VotedItems, n: int) -> Floats:
    """(n, k) certainty of the option that most training items' voters choose."""
    winner = np.bincount(train.votes.argmax(axis=1), minlength=len(train.options)).argmax()
    return np.tile(np.eye(len(train.options))[winner], (n, 1))


def bag_of_words(train: VotedItems, dev: VotedItems, items: VotedItems) -> Floats:
    """(n, k) of a logistic regression on TF-IDF of words and word pairs, fitted to people's shares.

    Of two actions the features are the difference and there is no intercept, so that their order cannot matter. The
    penalty is the one with the least cross-entropy on dev. The prior where words can tell nothing: all of training's
    votes are for one option, or no word stands in two texts (as in scripts that leave no space between words).
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        words.fit([text for texts in train.texts for text in texts])
    except ValueError:  # no terms
        return prior(train, len(items))
    shares = train.votes / train.votes.sum(axis=1, keepdims=True)
    k = len(train.options)
    features = vstack([_features(words, train)] * k)
    labels, weights = np.repeat(np.arange(k), len(train)), shares.T.ravel()
    used = weights > 0
    if len(np.unique(labels[used])) < 2:
        return prior(train, len(items))
    best: tuple[float, Floats] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, fit_intercept=train.task != "dilemmas", max_iter=500)
        model.fit(features[used], labels[used], sample_weight=weights[used])
        dev_p, p = (_all_options(model, _features(words, part), k) for part in (dev, items))
        dev_shares = dev.votes / dev.votes.sum(axis=1, keepdims=True)
        loss = float(-(dev_shares * np.log(dev_p)).sum(axis=1).mean())
        if best is None or loss < best[0]:
            best = loss, p
    assert best is not None
    return best[1]


def _features(words: TfidfVectorizer, items: VotedItems) -> csr_matrix:
    columns = [words.transform([texts[place] for texts in items.texts]) for place in range(len(items.texts[0]))]
    return columns[0] if len(columns) == 1 else columns[0] - columns[1]


def _all_options(model: LogisticRegression, features: csr_matrix, options: int) -> Floats:
    """(n, k), where options that nobody ever chose in training have next to nothing."""
    p = np.full((features.shape[0], options), 1e-6)
    p[:, model.classes_] = np.maximum(model.predict_proba(features), 1e-6)
    return p / p.sum(axis=1, keepdims=True)

"""Rows from other packages, for augment_methods.py; runs in an environment of its own and imports nothing of ours.

    python tests/benchmarks/augment_peers.py METHOD TRAIN.csv OUT.csv ROWS SEED

The environment has be-great and ctgan (the latter under the Business Source Licence, so no dependency of a service).
`great` tunes the model named by AUGMENT_PEERS_MODEL (a folder or a hub id) for AUGMENT_PEERS_EPOCHS epochs (3) and
samples at its own temperature of 0.7. CTGAN and TVAE run 300 epochs with batches of 100: its default of 500 makes one
or two steps of an epoch of tables of this size.
"""

import os
import sys

import numpy as np
import pandas as pd

EPOCHS, BATCH = 300, 100


def great(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    import torch
    from be_great import GReaT

    torch.manual_seed(seed)
    model = GReaT(
        llm=os.environ["AUGMENT_PEERS_MODEL"],
        epochs=int(os.environ.get("AUGMENT_PEERS_EPOCHS", "3")),
        batch_size=8,
        learning_rate=3e-4,
        seed=seed,
        save_strategy="no",
    )
    model.tokenizer.pad_token = "<|endoftext|>"  # the only padding that it takes out of rows again
    model.fit(frame)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.sample(rows, max_length=40 * len(frame.columns), device=device)


def ctgan(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    from ctgan import CTGAN

    return fitted(CTGAN(epochs=EPOCHS, batch_size=BATCH, pac=10), frame, rows, seed)


def tvae(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    from ctgan import TVAE

    return fitted(TVAE(epochs=EPOCHS, batch_size=BATCH), frame, rows, seed)


def fitted(model, frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    """Both take whole numbers with few values as categories, and no missing numbers: those become the median."""
    model.set_random_state(seed)
    discrete = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name]) or frame[name].nunique() <= 10]
    frame = frame.fillna({name: frame[name].median() for name in frame.columns.difference(discrete)})
    model.fit(frame, discrete)
    return model.sample(rows)


def main() -> None:
    method, learned, drawn, rows, seed = sys.argv[1:]
    np.random.seed(int(seed))  # noqa: NPY002  (these packages draw from it)
    made = {"great": great, "ctgan": ctgan, "tvae": tvae}[method](pd.read_csv(learned), int(rows), int(seed))
    made.to_csv(drawn, index=False)


if __name__ == "__main__":
    main()

"""Rows from other packages, for augment_methods.py; runs in an environment of its own and imports nothing of ours.

    python tests/benchmarks/augment_peers.py METHOD TRAIN.csv OUT.csv ROWS SEED

The environment has be-great and ctgan (the latter under the Business Source Licence, so no dependency of a service).
`great` tunes the model named by AUGMENT_PEERS_MODEL (a folder or a hub id) for AUGMENT_PEERS_EPOCHS epochs (20) of
batches of 32 and samples at its own temperature of 0.7. CTGAN and TVAE run 300 epochs with batches of 100: their
default of 500 makes one or two steps of an epoch of tables of this size. The last line printed is JSON:
`sampling_seconds`.
"""

import json
import os
import sys
import time

import numpy as np
import pandas as pd

EPOCHS, BATCH = 300, 100


def great(frame: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, float]:
    import torch
    from be_great import GReaT

    torch.manual_seed(seed)
    gpu = torch.cuda.is_available()
    model = GReaT(
        llm=os.environ["AUGMENT_PEERS_MODEL"],
        epochs=int(os.environ.get("AUGMENT_PEERS_EPOCHS", "20")),
        batch_size=32,
        learning_rate=2e-4,
        seed=seed,
        bf16=gpu,
        save_strategy="no",
        report_to="none",
    )
    model.tokenizer.pad_token = "<|endoftext|>"  # the only padding that it takes out of rows again
    model.fit(frame)
    texts = [", ".join(f"{name} is {value}" for name, value in row.items()) for row in frame.to_dict("records")]
    longest = max(map(len, model.tokenizer(texts)["input_ids"]))
    started = time.perf_counter()
    made = model.sample(rows, k=256, max_length=longest + 8, device="cuda" if gpu else "cpu")
    return made, time.perf_counter() - started


def ctgan(frame: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, float]:
    from ctgan import CTGAN

    return fitted(CTGAN(epochs=EPOCHS, batch_size=BATCH, pac=10), frame, rows, seed)


def tvae(frame: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, float]:
    from ctgan import TVAE

    return fitted(TVAE(epochs=EPOCHS, batch_size=BATCH), frame, rows, seed)


def fitted(model, frame: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, float]:  # type: ignore[no-untyped-def]
    """Both take whole numbers with few values as categories, and no missing numbers: those become the median."""
    model.set_random_state(seed)
    discrete = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name]) or frame[name].nunique() <= 10]
    frame = frame.fillna({name: frame[name].median() for name in frame.columns.difference(discrete)})
    model.fit(frame, discrete)
    started = time.perf_counter()
    return model.sample(rows), time.perf_counter() - started


def main() -> None:
    method, learned, drawn, rows, seed = sys.argv[1:]
    np.random.seed(int(seed))  # noqa: NPY002  (these packages draw from it)
    make = {"great": great, "ctgan": ctgan, "tvae": tvae}[method]
    made, seconds = make(pd.read_csv(learned), int(rows), int(seed))
    made.to_csv(drawn, index=False)
    print(json.dumps({"sampling_seconds": seconds}))


if __name__ == "__main__":
    main()

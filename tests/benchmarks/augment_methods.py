"""How good and how private synthetic tables are: every method on public tables over several seeds, as Markdown.

    python -m tests.benchmarks.augment_methods --data ../shared/data/tabular --work DIR [--tables travel diabetes]
        [--methods cart arf] [--seeds 0 1 2 3 4] [--peers PYTHON] [--draw-only]

A seed is a stratified split of 80 to 20 (of adult, a sample of 5,000 rows); a method learns from the 80 %, draws as
many rows, and is judged against both parts. Each (table, method, seed) leaves its rows and its figures in --work and
is not run again; the tables are of what is there. `great`, `ctgan` and `tvae` run under --peers, the Python of an
environment of their own (see augment_peers.py); without it they are left out. `sft` makes `tilted` and `ppo` too.
--draw-only judges nothing: draw on a GPU, copy --work and give the same command again without it elsewhere.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import train_test_split

from consilience.tabular.comparison import assess
from consilience.tabular.schema import TableSchema
from consilience.tabular.simple_generators import GENERATORS

TABLES = {
    "travel": ("travel.csv", "ChurnOrNot"),
    "diabetes": ("diabetes.csv", "Outcome"),
    "sick": ("sick.csv", "Class"),
    "adult": ("adult.csv.gz", "income"),
}
REAL = "real"
OURS = ("sft", "tilted", "ppo")
PEERS = ("great", "ctgan", "tvae")
METHODS = (REAL, *GENERATORS, *OURS, *PEERS)
SAMPLE = 5_000
COLUMNS = {
    "utility_accuracy": "accuracy",
    "utility_roc_auc": "ROC-AUC",
    "utility_macro_f1": "macro F1",
    "discriminator_train": "discriminator, training rows",
    "discriminator_held_out": "discriminator, held-out rows",
    "column_shapes": "column shapes",
    "pair_trends": "pair trends",
    "exact_copies": "copies",
    "closest_ratio": "closest ratio",
    "membership_auc": "membership",
    "category_coverage": "categories",
    "class_share_shift": "class shift",
    "missing_shift": "missing shift",
    "rows": "rows",
    "seconds": "seconds",
    "sampling_seconds": "seconds, drawing",
}


def split(data: Path, table: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, TableSchema]:
    """80 % and 20 % of a table, by class, and the schema of the first."""
    file, target = TABLES[table]
    frame = pd.read_csv(data / file)
    if len(frame) > 4 * SAMPLE:
        frame = frame.sample(SAMPLE, random_state=0, ignore_index=True)
    train, test = train_test_split(frame, test_size=0.2, stratify=frame[target], random_state=seed)
    return train.reset_index(drop=True), test.reset_index(drop=True), TableSchema.of(train, target)


def generate(
    method: str, train: pd.DataFrame, schema: TableSchema, seed: int, options: Any, at: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Methods and their `rows`, as many as `train` has, and the `seconds` that learning and drawing them took."""
    if method in OURS:
        from tests.benchmarks.augment_language_model import language_model

        yield from language_model(train, schema, seed, options.generator)
        return
    started = time.perf_counter()
    if method in PEERS:
        made = peer(method, train, schema, seed, options.peers, at)
    else:
        made = {"rows": train if method == REAL else GENERATORS[method](train, schema, len(train), seed)}
    yield method, {"seconds": time.perf_counter() - started, **made}


def peer(method: str, train: pd.DataFrame, schema: TableSchema, seed: int, python: Path, at: Path) -> dict[str, Any]:
    """Rows from another package, in its own environment, those whose numbers cannot be read left out, and the
    `sampling_seconds` of them all."""
    learned, drawn = at.with_suffix(".train.csv"), at.with_suffix(".csv")
    train.to_csv(learned, index=False)
    script = Path(__file__).with_name("augment_peers.py")
    command = [python, script, method, learned, drawn, str(len(train)), str(seed)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = pd.read_csv(drawn, dtype=str, keep_default_na=False)[schema.names]
    learned.unlink()
    drawn.unlink()
    for column in schema.columns:
        values = rows[column.name].where(rows[column.name] != "")
        if column.kind in ("integer", "float"):
            values = pd.to_numeric(values, errors="coerce").round(column.decimals or 0)
        rows[column.name] = values
    rows = rows.dropna(subset=[column.name for column in schema.columns if not column.missing])
    rows = rows.astype({name: train[name].dtype for name in schema.names}).reset_index(drop=True)
    return {"rows": rows, **json.loads(said.splitlines()[-1])}


def draw(table: str, method: str, seed: int, options: Any) -> None:
    """Leave the rows of one method on one split, and what is known of their making; the language model's methods come
    together."""
    at = options.work / f"{table}-{method}-{seed}"
    if at.with_suffix(".made.json").exists():
        return
    print(f"{table}, {method}, seed {seed}: drawing", flush=True)
    train, _, schema = split(options.data, table, seed)
    for name, made in generate(method, train, schema, seed, options, at):
        at = options.work / f"{table}-{name}-{seed}"
        made.pop("rows").to_parquet(at.with_suffix(".parquet"), index=False)
        about = {"table": table, "method": name, "seed": seed, **made}
        at.with_suffix(".made.json").write_text(json.dumps(about, allow_nan=False), encoding="utf-8")


def judge(table: str, method: str, seed: int, options: Any) -> None:
    """Leave the figures of the rows that one method drew on one split."""
    at = options.work / f"{table}-{method}-{seed}"
    if at.with_suffix(".json").exists():
        return
    print(f"{table}, {method}, seed {seed}: judging", flush=True)
    train, test, schema = split(options.data, table, seed)
    found = assess(train, test, pd.read_parquet(at.with_suffix(".parquet")), schema, seed).to_json()
    about = json.loads(at.with_suffix(".made.json").read_text(encoding="utf-8"))
    at.with_suffix(".json").write_text(json.dumps({**about, **found}, allow_nan=False), encoding="utf-8")


def stored(work: Path) -> pd.DataFrame:
    """One row per table, method and seed, a column per figure; missing NaN."""
    paths = sorted(path for path in work.glob("*.json") if not path.name.endswith(".made.json"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    keys = ("table", "method", "seed", "seconds", "sampling_seconds", "rows")
    return pd.DataFrame([{**{key: each.get(key) for key in keys}, **each["figures"]} for each in runs]).fillna(np.nan)


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % t-interval."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return ""
    digits = 3 if abs(known.mean()) < 10 else 0
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return f"{known.mean():.{digits}f} ± {half:.{digits}f}"


def show(runs: pd.DataFrame) -> None:
    """Figures of every table and method, what synthetic rows add to real ones, and our methods against the others."""
    for table in [name for name in TABLES if name in set(runs["table"])]:
        here = runs[runs["table"] == table].set_index("seed")
        methods = {method: here[here["method"] == method] for method in METHODS if method in set(here["method"])}
        print(
            f"\n{table}: copies among held-out rows {interval(here['exact_copies_held_out'].groupby('seed').mean())}\n"
        )
        print(f"| method | seeds | {' | '.join(COLUMNS.values())} |\n|{'---|' * (len(COLUMNS) + 2)}")
        for method, each in methods.items():
            print(f"| {method} | {len(each)} | {' | '.join(interval(each[column]) for column in COLUMNS)} |")
        print("\n| difference on the same split | accuracy | ROC-AUC | macro F1 |\n|---|---|---|---|")
        for method, each in methods.items():
            if REAL in methods and method != REAL:
                print(f"| real + {method} less real | {differences(each, 'augmented', methods[REAL])} |")
        for method in [method for method in OURS if method in methods]:
            for other in [other for other in methods if other not in (REAL, method)]:
                print(f"| {method} less {other} | {differences(methods[method], 'utility', methods[other])} |")


def differences(one: pd.DataFrame, of: str, other: pd.DataFrame) -> str:
    measures = ("accuracy", "roc_auc", "macro_f1")
    return " | ".join(interval((one[f"{of}_{each}"] - other[f"utility_{each}"]).dropna()) for each in measures)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--peers", type=Path, help="the Python that has be-great and ctgan")
    parser.add_argument("--draw-only", action="store_true", help="leave the judging to a later call")
    parser.add_argument("--generator", type=json.loads, default={}, help="JSON of GeneratorConfig, for trials")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for method in options.methods:
        if method in PEERS and options.peers is None:
            print(f"{method}: left out, no --peers given")
            continue
        for table in options.tables:
            for seed in options.seeds:
                draw(table, method, seed, options)
                if not options.draw_only:
                    judge(table, method, seed, options)
    if not options.draw_only:
        show(stored(options.work))


if __name__ == "__main__":
    main()

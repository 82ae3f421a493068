"""Train value classifiers: is a value at stake in a text (relevance), and does the text follow it (the reward)?

One encoder with a head per value for each question, trained by Ray Train, calibrated on validation and compared on
held-out situations with majority and bag of words. A classifier that is no better is refused as a reward.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import Field

from consilience.config import Config
from consilience.datasets.mfrc import read_mfrc
from consilience.datasets.moral_stories import read_moral_stories
from consilience.datasets.social_chemistry import read_social_chemistry
from consilience.errors import UserError
from consilience.files import digest_file, digest_json
from consilience.lm.sources import check_source, open_source
from consilience.runs import Run
from consilience.table_schema import write_table
from consilience.tables import VALUE_CLASSIFIERS, VALUE_EXAMPLES, VALUE_METRICS
from consilience.theories import VALUE_NAMES
from consilience.values.examples import (
    ALL,
    FOLLOWS,
    HUMAN,
    RELEVANCE,
    norm_judgements,
    norm_relevance,
    read_own,
    story_examples,
)
from consilience.values.settings import ClassifierWorkersConfig, EncoderConfig, FitConfig, ValueData
from consilience.values.split import FOLDS, split_by_situation
from jobs.cli import Job, Summary, console, main
from jobs.progress import watching
from jobs.run_tables import write_rows

ALIKE = 0.9
"""Correlation of two rewards from which the run says that they are near-copies."""


class TrainValuesConfig(Config):
    """Labelled texts, and how classifiers are trained on them."""

    data: ValueData = Field(
        description="labelled texts: a table of one's own, or examples, mfrc, social_chemistry, ..."
    )
    encoder: EncoderConfig = Field(EncoderConfig(), description="text encoder, by default a small one from a package")
    fit: FitConfig = Field(FitConfig(), description="epochs, batch size, learning rates")
    folds: int = Field(FOLDS, ge=3, description="situations are dealt to this many: one for test, one for validation")
    split_seed: int = Field(0, ge=0, description="of the split, so that another seed is judged on the same texts")
    workers: ClassifierWorkersConfig = Field(ClassifierWorkersConfig(), description="where the training runs")
    seed: int = Field(0, ge=0, description="of the heads and the order of texts")


def plan(config: TrainValuesConfig) -> list[str]:
    """Check that files and encoder are there; say what would be trained."""
    for path in config.data.paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected labelled texts")
    check_source(config.encoder.source, config.encoder.revision)
    questions = [RELEVANCE] if config.data.mfrc or config.data.social_chemistry else []
    if config.data.examples or config.data.social_chemistry:
        questions.append(FOLLOWS)
    return [
        f"train {config.encoder.source} on {len(config.data.paths)} files, {config.fit.epochs} epochs, "
        f"{config.workers.workers} workers",
        *(f"  {question}: {', '.join(VALUE_NAMES)}" for question in questions),
    ]


def execute(config: TrainValuesConfig, run: Run) -> Summary:
    """Read the data, train and judge both questions' classifiers, write tables and artefacts."""
    started = time.monotonic()
    digests = {str(path): digest_file(path) for path in config.data.paths}
    files = open_source(config.encoder.source, config.encoder.revision)
    run.record(inputs=digests, licences={config.encoder.source: files.licence})
    settings = config.model_dump(mode="json", include={"data", "encoder", "fit", "folds", "split_seed", "seed"})
    version = digest_json([digests, files.digest, files.settings_digest, settings])
    norms = _concat([read_social_chemistry(path) for path in config.data.social_chemistry])
    relevance = [read_mfrc(path).to_pandas() for path in config.data.mfrc]
    if norms is not None:
        relevance.append(norm_relevance(norms))
    results = {}
    if relevance:
        results[RELEVANCE] = _train(RELEVANCE, pd.concat(relevance), config, run, version)
    follows = [read_own(path) for path in config.data.examples]
    counts: Summary = {}
    if norms is not None:
        stories = read_moral_stories(config.data.moral_stories)
        follows.append(norm_judgements(norms, stories["norm"]))
        if len(stories):
            labelled, counts = _label(stories, norms, run)
            follows.append(labelled)
    if any(len(frame) for frame in follows):
        results[FOLLOWS] = _train(FOLLOWS, pd.concat(follows), config, run, version)
    for schema, key in ((VALUE_METRICS, "metrics"), (VALUE_CLASSIFIERS, "classifiers")):
        rows = [row for result in results.values() for row in result[key]]
        write_rows(rows, run, schema)
    run.record(notes=_notes(results, counts))
    return {**_headline(results), **counts, "seconds": round(time.monotonic() - started, 3)}


def _concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    return pd.concat(frames, ignore_index=True) if frames else None


def _train(question: str, examples: pd.DataFrame, config: TrainValuesConfig, run: Run, version: str) -> dict[str, Any]:
    """Train and judge one question; returns rows of the tables, and what the summary takes from them."""
    files = (f"{question}/classifier.safetensors", f"{question}/classifier.json", f"examples_{question}.parquet")
    if run.finished(question, version, *files):
        return {**run.manifest[question]}
    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    from actors.cluster import connect
    from actors.values_worker import train_classifier
    from consilience.values.about import About
    from consilience.values.assessment import assess
    from consilience.values.classifier import save_classifier

    with run.stage(question, version):
        examples = split_by_situation(examples.reset_index(drop=True), config.folds, config.split_seed)
        table = pa.Table.from_pandas(examples, preserve_index=False)
        write_table(table, run / files[2], VALUE_EXAMPLES)
        connect(*config.workers.at_once)
        storage, name = run / "training", f"{question}-{version[:12]}"
        with watching(storage):
            trained = train_classifier(
                run / files[2], config.encoder, config.fit, config.seed, config.workers, storage, name
            )
        found = assess(question, examples, trained.logits)
        encoder = open_source(config.encoder.source, config.encoder.revision)
        about = About(question, config.encoder, encoder.settings_digest, config.seed, found.heads)
        save_classifier(run / question, trained.weights, about)
        result = {
            "metrics": found.metrics,
            "classifiers": found.classifiers,
            "at_threshold": found.at_threshold,
            "correlations": found.correlations,
            "history": trained.history,
            "splits": examples["split"].value_counts().to_dict(),
        }
        run.record(**{question: result})
    shutil.rmtree(storage / name, ignore_errors=True)
    return result


def _label(stories: pd.DataFrame, norms: pd.DataFrame, run: Run) -> tuple[pd.DataFrame, Summary]:
    """Reward examples of Moral Stories, and how many stories have human and predicted values."""
    from consilience.values.norms import norm_profiles

    profiles = norm_profiles(stories["norm"].tolist(), norms, run.folder)
    human = profiles["profile_source"] == HUMAN
    named = profiles[list(VALUE_NAMES)].sum(axis=1) > 0
    counts: Summary = {
        "stories": len(stories),
        "stories_human": int((human & named).sum()),
        "stories_predicted": int((~human & named).sum()),
        "stories_without_value": int((~named).sum()),
    }
    return story_examples(stories, profiles), counts


def _headline(results: dict[str, dict[str, Any]]) -> Summary:
    """AUC, baseline's AUC and ECE on all test texts: auc_VALUE for the reward, auc_relevance_VALUE for relevance."""
    summary: Summary = {}
    for question, prefix in ((FOLLOWS, ""), (RELEVANCE, "relevance_")):
        rows = results.get(question, {}).get("metrics", [])
        overall = {(row["value"], row["system"]): row for row in rows if row["examples"] == ALL}
        for value in VALUE_NAMES if question in results or question == FOLLOWS else ():
            for key, system, figure in (
                ("auc", "classifier", "auc"),
                ("auc_baseline", "bag_of_words", "auc"),
                ("ece", "classifier", "ece"),
            ):
                found = overall.get((value, system), {}).get(figure)
                summary[f"{key}_{prefix}{value}"] = None if found is None else round(found, 4)
    verdicts = [row["verdict"] for row in results.get(FOLLOWS, {}).get("classifiers", [])]
    pairs = _pairs(results.get(FOLLOWS, {}).get("correlations", {}))
    summary["reward_correlation"] = round(sum(pairs.values()) / len(pairs), 4) if pairs else None
    return {**summary, "rewards_usable": verdicts.count("usable"), "rewards_refused": verdicts.count("refused")}


def _pairs(correlations: dict[str, dict[str, float]]) -> dict[tuple[str, str], float]:
    """Correlation of every two values."""
    return {pair: correlations[pair[0]][pair[1]] for pair in combinations(correlations, 2)}


def _notes(results: dict[str, dict[str, Any]], counts: Summary) -> list[str]:
    notes = [
        f"{row['value']}, {row['question']}: {row['verdict']}. {row['reason']}"
        for result in results.values()
        for row in result["classifiers"]
        if row["reason"]
    ]
    pairs = _pairs(results.get(FOLLOWS, {}).get("correlations", {}))
    alike = [f"{one} and {other} {r:.2f}" for (one, other), r in pairs.items() if r > ALIKE]
    if alike:
        notes.append(f"rewards that are near-copies of one another (correlation on test): {', '.join(alike)}")
    if counts:
        notes.append(
            f"Moral Stories: the values of {counts['stories_human']} norms are people's (exact match with Social "
            f"Chemistry), those of {counts['stories_predicted']} predicted; "
            f"{counts['stories_without_value']} norms are about no value and left out"
        )
    return notes


def show(folder: Path) -> None:
    """Write the report page and print its table."""
    from consilience.report.value_classifiers import print_classifiers, write_report

    write_report(folder)
    print_classifiers(folder, console)


JOB = Job("train_values", __doc__, TrainValuesConfig, plan, execute, inputs=("data",), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))

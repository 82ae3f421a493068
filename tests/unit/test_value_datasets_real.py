"""The loaders of the value classifiers on real data, where a folder of it is."""

import os
from pathlib import Path

import pytest

from consilience.datasets.mfrc import read_mfrc
from consilience.datasets.moral_stories import read_moral_stories
from consilience.datasets.social_chemistry import read_social_chemistry
from consilience.values.examples import norm_judgements
from consilience.values.norms import human_values

DATA = Path(__file__).parents[2] / os.environ.get("CONSILIENCE_DATA", "../shared/data")


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: real data is not part of the project (CONSILIENCE_DATA names its folder)")
    return path


def test_mfrc() -> None:
    frame = read_mfrc(real("mfrc/mfrc_counts.tsv.gz")).to_pandas()
    assert len(frame) == 17_457
    assert {value: int(frame[value].sum()) for value in ("authority", "care", "loyalty", "sanctity")} == {
        "authority": 621,
        "care": 1605,
        "loyalty": 393,
        "sanctity": 247,
    }


def test_social_chemistry_and_moral_stories() -> None:
    norms = read_social_chemistry(real("social_chem_101/obligatory_sc101.csv.gz"))
    assert len(norms) == 8_358
    assert norms[["care", "sanctity"]].sum().tolist() == [5590.0, 408.0]
    assert norms["judgement"].min() >= 0
    assert norm_judgements(norms).empty, "without negative judgements there is no reward"
    stories = read_moral_stories(
        [real(f"moral_stories/{name}.jsonl.gz") for name in ("train_norm_actions", "train_context_subset", "dev_full")]
    )
    assert len(stories) == 11_000
    assert stories["context"].notna().sum() == 3_500
    optional = read_social_chemistry(real("social_chem_101/optional_sc101.csv.gz"))
    train = stories["norm"][:10_000]
    assert train.isin({*norms["rot"], *optional["rot"]}).sum() == 878
    assert human_values(norms).isin([0.0, 1.0]).all(axis=None)

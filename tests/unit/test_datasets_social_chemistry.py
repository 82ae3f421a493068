"""Social Chemistry: foundations and judgements of rules of thumb, in the release's columns and direction."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consilience.datasets.social_chemistry import read_social_chemistry
from consilience.errors import UserError
from consilience.theories import VALUE_NAMES
from consilience.values.examples import norm_judgements, norm_relevance
from consilience.values.norms import human_values

COLUMNS = [
    *("area", "split", "rot-bad", "rot-moral-foundations", "action", "action-moral-judgment"),
    *("situation", "situation-short-id", "rot"),
]


def norm(rot: str, foundations: str = "", judgement: str = "1.0", **changes: str) -> dict[str, str]:
    row = {"area": "x", "split": "train", "rot-bad": "0", "rot-moral-foundations": foundations, "action": f"act {rot}"}
    row |= {"action-moral-judgment": judgement, "situation": "a day", "situation-short-id": f"s/{rot}", "rot": rot}
    return {**row, **{key.replace("_", "-"): value for key, value in changes.items()}}


def save(path: Path, *rows: dict[str, str]) -> Path:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["sc.csv", "sc.tsv", "sc.csv.gz"])
def test_foundations_and_judgements(tmp_path: Path, name: str) -> None:
    rows = (
        norm("It's wrong to steal.", "care-harm|fairness-cheating", "-2.0"),
        norm("Spoken for nobody."),
        norm("Half a rule", "care-harm", rot_bad="1"),
    )
    frame = read_social_chemistry(save(tmp_path / name, *rows))
    assert frame["item_id"].tolist() == ["sc-1", "sc-2"], "bad rules of thumb are left out, rows keep their numbers"
    first, second = frame.to_dict("records")
    assert [first[value] for value in VALUE_NAMES] == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert first["judgement"] == -2.0
    assert [second[value] for value in VALUE_NAMES] == [0.0] * 5


def test_judgements_reward_only_where_both_signs_are_known(tmp_path: Path) -> None:
    rows = (
        norm("a", "care-harm", "-1.0"),
        norm("b", "care-harm|loyalty-betrayal", "0.0"),
        norm("c", "loyalty-betrayal", "2.0"),
        norm("d", "", "-2.0"),
        norm("e", "care-harm", ""),
    )
    frame = norm_judgements(read_social_chemistry(save(tmp_path / "sc.csv", *rows)))
    assert frame["text"].tolist() == ["act a", "act b"], "loyalty has no negative judgement here"
    assert frame["care"].tolist() == [0.0, 1.0]
    assert frame["loyalty"].isna().all()


def test_relevance_and_values_of_a_repeated_norm(tmp_path: Path) -> None:
    rows = (
        norm("same", "care-harm", situation_short_id="s/1"),
        norm("same", "care-harm|authority-subversion", situation_short_id="s/2"),
        norm("same", "", situation_short_id="s/3"),
    )
    frame = read_social_chemistry(save(tmp_path / "sc.csv", *rows))
    assert norm_relevance(frame)["care"].tolist() == [1.0, 1.0, 0.0]
    values = human_values(frame)
    assert values.index.tolist() == ["same"]
    assert values.loc["same"].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0], "two of three name care, one authority"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (norm("a", "care-harm|liberty"), "row 2, column 'rot-moral-foundations': expected authority-subversion"),
        (norm("a", judgement="3"), "row 2, column 'action-moral-judgment': expected a number from -2 to 2, found 3.0"),
        (norm("a", judgement="bad"), "row 2, column 'action-moral-judgment': expected a number, found 'bad'"),
        (norm("", situation_short_id="s"), "row 2, column 'rot': expected a value"),
        (norm("a", rot_bad="x"), "row 2, column 'rot-bad': expected one of 0, 1, found 'x'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, str], message: str) -> None:
    path = save(tmp_path / "sc.csv", norm("fine"), row)
    with pytest.raises(UserError) as caught:
        read_social_chemistry(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "sc.csv"
    path.write_text("rot,action\nx,y\n", encoding="utf-8")
    with pytest.raises(UserError, match="missing column 'situation-short-id'"):
        read_social_chemistry(path)


def test_judgement_is_missing_not_zero(tmp_path: Path) -> None:
    frame = read_social_chemistry(save(tmp_path / "sc.csv", norm("a", judgement="")))
    assert np.isnan(frame["judgement"][0])

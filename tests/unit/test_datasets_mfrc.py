"""MFRC counts: two annotators make a value relevant; what cannot be read is named."""

from pathlib import Path

import pytest

from consilience.datasets.mfrc import read_mfrc
from consilience.errors import UserError
from consilience.table_schema import check_key, conform
from consilience.tables import VALUE_EXAMPLES

HEADER = "ID\ttext\tEquality\tCare\tNon-Moral\tAuthority\tThin Morality\tLoyalty\tProportionality\tPurity\n"


def save(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_counts_become_relevance(tmp_path: Path) -> None:
    path = save(
        tmp_path / "counts.tsv",
        "7\t The mayor ought to resign. \t0\t1\t0\t2\t1\t0\t0\t0",
        "8\tThey paid her less for the same shift.\t1\t3\t0\t0\t0\t0\t1\t1",
        "9\tNice weather today.\t0\t0\t3\t0\t0\t0\t0\t0",
    )
    table = read_mfrc(path)
    check_key(table, VALUE_EXAMPLES, "here")
    assert conform(table, VALUE_EXAMPLES, "here") == table
    first, second, third = table.to_pylist()
    assert first == {
        "item_id": "mfrc-7",
        "text": "The mayor ought to resign.",
        "situation": "mfrc-7",
        "source": "mfrc",
        "label_source": "human",
        "authority": 1.0,
        "care": 0.0,
        "fairness": 0.0,
        "loyalty": 0.0,
        "sanctity": 0.0,
    }
    assert second["fairness"] == 1.0, "equality and proportionality together"
    assert second["care"] == 1.0
    assert second["sanctity"] == 0.0
    assert [third[name] for name in ("authority", "care", "fairness", "loyalty", "sanctity")] == [0.0] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7\thello\t0\tmany\t0\t0\t0\t0\t0\t0", "row 1, column 'Care': expected a whole number, found 'many'"),
        ("7\thello\t0\t-1\t0\t0\t0\t0\t0\t0", "row 1, column 'Care': expected a number of at least 0, found -1"),
        ("7\t\t0\t1\t0\t0\t0\t0\t0\t0", "row 1, column 'text': expected a value"),
        ("7\thello\t0\t1\t0\t0\t0\t0\t0", "row 1: expected 10 fields, found 9"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = save(tmp_path / "counts.tsv", row)
    with pytest.raises(UserError) as caught:
        read_mfrc(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_column_and_a_repeated_id(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text("ID\ttext\tCare\n1\thello\t2\n", encoding="utf-8")
    with pytest.raises(UserError, match="missing column 'Authority'"):
        read_mfrc(path)
    with pytest.raises(UserError, match="row 2 repeats row 1"):
        read_mfrc(save(path, "7\ta\t0\t0\t0\t0\t0\t0\t0\t0", "7\tb\t0\t0\t0\t0\t0\t0\t0\t0"))

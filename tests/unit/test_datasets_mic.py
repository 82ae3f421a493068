"""MIC.csv in the release's own columns, written here in its format."""

import csv
from pathlib import Path

import pytest

from consilience.datasets.mic import read_mic
from consilience.errors import UserError
from consilience.table_schema import check_key, conform
from consilience.tables import QUESTIONS
from consilience.values.questions import questions_of, read_questions

HEADER = ["", "chatbot", "Q", "A", "rot", "moral", "moral-vector", "A_agrees", "worker_answer", "split"]


def save(folder: Path, *rows: tuple[str, str, str, str], name: str = "MIC.csv") -> Path:
    """Rows of question, moral, worker_answer, split."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number, (question, moral, answer, split) in enumerate(rows):
            writer.writerow(
                [number, "gpt-neo", question, "I would not.", "You should ask.", moral, "[1.0]", 2, answer, split]
            )
    return folder / name


def test_reads_questions_with_profile_and_revised_answer(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        ("May I keep it?", "care|fairness", "Give it back,\nplease.", "train"),
        ("May I keep it?", "liberty", "Keep it.", "train"),
        ("Is it fair?", "loyalty|liberty", "", "dev"),
        ("Who rules?", "", "The law.", "test"),
    )
    table = read_mic(path)
    check_key(conform(table, QUESTIONS, "test"), QUESTIONS, "test")
    questions = questions_of(table)
    assert [q.question_id for q in questions] == ["mic-1", "mic-2", "mic-3", "mic-4"]
    assert [q.split for q in questions] == ["train", "train", "validation", "test"]
    assert [q.reference for q in questions] == ["Give it back,\nplease.", "Keep it.", None, "The law."]
    assert [[value.name for value in q.profile.present] for q in questions] == [
        ["care", "fairness"],
        [],
        ["loyalty"],
        [],
    ]
    assert read_questions(path).equals(table)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "MIC.csv"
    path.write_text("Q,moral,split\nMay I?,care,train\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"MIC.csv: missing column 'worker_answer' of table 'MIC'"):
        read_mic(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("May I?", "care|bravery", "No.", "train"), "row 2, column 'moral': expected authority, care,"),
        (("May I?", "care", "No.", "validation"), "row 2, column 'split': expected one of train, dev, test"),
        (("", "care", "No.", "train"), "row 2, column 'Q': expected a value"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: tuple[str, str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_mic(save(tmp_path, ("Fine?", "care", "Yes.", "train"), row))


def test_a_split_of_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"question_id": "a", "text": "May I?", "split": "dev", "authority": 0, "care": 1, "fairness": 0, '
        '"loyalty": 0, "sanctity": 0, "profile_source": "human"}\n'
    )
    with pytest.raises(UserError, match="row 1, column 'split': expected one of train, validation, test, found 'dev'"):
        read_questions(path)

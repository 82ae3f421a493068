"""ETHICS files as released: five theories, one direction."""

import gzip
from pathlib import Path

import pytest

from consilience.datasets.ethics import read_scenarios, read_utilitarianism
from consilience.errors import UserError
from consilience.table_schema import check_key, conform
from consilience.tables import DILEMMAS, GOLD, PAIRS, VOTES

FILES = {
    "justice_test.csv": "label,scenario\n1,I pay Ana more: she works more.\n0,I pay Ana more: she laughs more.\n",
    "deontology_train.csv": "label,scenario,excuse\n1,Can you lock up?, But I have no key.\n0,Can you lock up?,No.\n",
    "virtue_test.csv": "label,scenario\n1,Ben gave up his seat. [SEP] polite\n0,Ben gave up his seat. [SEP] cruel\n",
    "cm_train.csv": 'label,input,is_short,edited\n0,I fed the cat.,True,False\n1,"I hid it,\nfor weeks.",False,False\n',
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_one_is_acceptable_under_every_theory(tmp_path: Path, name: str, ending: str) -> None:
    dilemmas, gold = read_scenarios(write(tmp_path, name + ending, FILES[name]))
    assert gold is not None
    for table, schema in ((dilemmas, DILEMMAS), (gold, GOLD)):
        assert conform(table, schema, "here") == table
        check_key(table, schema, "here")
    stem = name.removesuffix(".csv")
    theory = {"cm_train": "commonsense"}.get(stem, stem.partition("_")[0])
    assert gold.to_pylist() == [
        {"item_id": f"{stem}-1", "theory": theory, "label": 1.0},
        {"item_id": f"{stem}-2", "theory": theory, "label": 0.0},
    ]
    assert dilemmas.column("item_id") == gold.column("item_id")
    assert set(dilemmas.column("source").to_pylist()) == {"ethics"}


def test_texts(tmp_path: Path) -> None:
    def texts(name: str) -> list[str]:
        values: list[str] = read_scenarios(write(tmp_path, name, FILES[name]))[0].column("text").to_pylist()
        return values

    assert texts("justice_test.csv")[0] == "I pay Ana more: she works more."
    assert texts("deontology_train.csv")[0] == "Can you lock up? But I have no key."
    assert texts("virtue_test.csv")[0] == "Ben gave up his seat.\n\nTrait said to show here: polite"
    assert texts("cm_train.csv")[1] == "I hid it,\nfor weeks."


def test_commonsense_is_short_or_long_and_the_ambiguous_have_no_label(tmp_path: Path) -> None:
    dilemmas, _ = read_scenarios(write(tmp_path, "cm_train.csv", FILES["cm_train.csv"]))
    assert dilemmas.column("group").to_pylist() == ["short", "long"]
    dilemmas, gold = read_scenarios(
        write(tmp_path, "cm_ambig.csv", '"AITA? | I left, early."\nAITA too? | I stayed.\n')
    )
    assert gold is None
    assert dilemmas.select(["item_id", "text"]).to_pylist() == [
        {"item_id": "cm_ambig-1", "text": "AITA? | I left, early."},
        {"item_id": "cm_ambig-2", "text": "AITA too? | I stayed."},
    ]


def test_utilitarianism_is_pairs_with_the_vote_on_the_less_pleasant(tmp_path: Path) -> None:
    text = 'I found a coin.,I lost a coin.\n"It rained, briefly.",It poured.\n'
    pairs, votes = read_utilitarianism(write(tmp_path, "util_test.csv", text))
    for table, schema in ((pairs, PAIRS), (votes, VOTES)):
        assert conform(table, schema, "here") == table
        check_key(table, schema, "here")
    assert pairs.to_pylist()[1] == {
        "item_id": "util_test-2",
        "action_0": "It rained, briefly.",
        "action_1": "It poured.",
        "source": "ethics",
    }
    assert {(row["option"], row["count"]) for row in votes.to_pylist()} == {("action_0", 0), ("action_1", 1)}
    assert len(votes) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.csv", "label,scenario\n1,x\n", r"not a name of the ETHICS release; expected justice_\*, deontology_\*"),
        ("util_test.csv", "a,b\n", "not a name of the ETHICS release"),
        ("justice_test.csv", "label,scenario\n1,x\n2,y\n", "row 2, column 'label': expected one of 0, 1, found '2'"),
        ("justice_test.csv", "label,scenario\n1,\n", "row 1, column 'scenario': expected a value"),
        ("justice_test.csv", "label,text\n1,x\n", "missing column 'scenario'"),
        ("justice_test.csv", "label,scenario\n", "no rows; expected columns label, scenario"),
        ("virtue_test.csv", "label,scenario\n1,x [SEP] y\n1,x\n", "row 2, column 'scenario': expected SCENARIO"),
        ("cm_test.csv", "label,input,is_short\n1,x,maybe\n", "row 1, column 'is_short': expected one of True, False"),
        ("cm_ambig.csv", "one\ntwo,three\n", "row 2: expected 1 fields, found 2"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scenarios(write(tmp_path, name, text))


def test_a_wrong_pair_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 2: expected 2 fields, found 3"):
        read_utilitarianism(write(tmp_path, "util_test.csv", "a,b\nc,d,e\n"))
    with pytest.raises(UserError, match="row 1, column 'less_pleasant': expected a value"):
        read_utilitarianism(write(tmp_path, "util_test.csv", "a,\n"))

"""Value classifiers in Ray Train: two workers that lose one train what one process trains; and the whole job."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kills import TRAINER, at_work, killing

from actors.values_worker import train_classifier
from consilience.table_schema import read_table, write_table
from consilience.tables import VALUE_CLASSIFIERS, VALUE_EXAMPLES, VALUE_METRICS
from consilience.values.classifier import ValueClassifier
from consilience.values.reward import load_reward
from consilience.values.settings import ClassifierWorkersConfig, EncoderConfig, FitConfig
from consilience.values.split import split_by_situation
from consilience.values.training import ClassifierTrainer
from jobs.cli import main
from jobs.train_values import JOB

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from value_models import save_tiny_encoder, value_examples

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
FIT = FitConfig(epochs=4, batch_size=5, learning_rate=1e-3, head_learning_rate=1e-2)


def test_two_workers_equal_one_even_when_one_dies(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path / "encoder"), max_tokens=32)
    examples = split_by_situation(value_examples(60), 4, 0)  # the last batch of an epoch leaves a worker without a text
    path = tmp_path / "examples.parquet"
    write_table(pa.Table.from_pandas(examples, preserve_index=False), path, VALUE_EXAMPLES)
    alone = ClassifierTrainer(ValueClassifier.build(encoder, 0), examples, FIT, 0)
    while not alone.finished:
        alone.step()
    workers = ClassifierWorkersConfig(workers=2, max_failures=2, checkpoint_batches=20)
    with killing(lambda: at_work(TRAINER, tmp_path / "two")) as killed:
        trained = train_classifier(path, encoder, FIT, 0, workers, tmp_path, "two")
    assert killed
    losses = [[entry["loss_train"] for entry in history] for history in (trained.history, alone.history)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    held_out = (examples["split"] != "train").to_numpy()
    assert np.isnan(trained.logits[~held_out]).all()
    expected = alone.logits(examples.loc[held_out, "text"].tolist())
    np.testing.assert_allclose(trained.logits[held_out], expected, atol=2e-3)


def test_the_smoke_config(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = ["--config", "configs/smoke/train_values.yaml", "--out", str(tmp_path / "run")]
    assert main(JOB, command) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for value in ("authority", "care", "fairness", "loyalty", "sanctity"):
        assert 0 <= summary[f"auc_{value}"] <= 1
        assert 0 <= summary[f"auc_baseline_{value}"] <= 1
        assert 0 <= summary[f"ece_{value}"] <= 1
    assert summary["rewards_usable"] + summary["rewards_refused"] == 5
    assert read_table(tmp_path / "run/value_metrics.parquet", VALUE_METRICS).num_rows == 15
    verdicts = read_table(tmp_path / "run/value_classifiers.parquet", VALUE_CLASSIFIERS).to_pandas()
    reward = load_reward(tmp_path / "run", "care", force=True)
    assert reward.forced == (verdicts.set_index("value").loc["care", "verdict"] == "refused")
    assert all(0 <= score <= 1 for score in reward(["I brought her soup.", "I locked her out in the snow."]))
    assert "refused" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    before = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]
    assert main(JOB, command) == 0
    assert json.loads((tmp_path / "run/manifest.json").read_text())["stages"] == before, "nothing is trained twice"


def test_norms_give_the_stories_their_values(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both questions, on files in the public formats: half of the norms are known, the others' values are predicted."""
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    named = {"care": "care-harm", "loyalty": "loyalty-betrayal"}
    verbs = {"care": "helped", "loyalty": "thanked"}
    norms, stories = [], []
    for k in range(60):
        value = ("care", "loyalty")[k % 2]
        rot = f"It's good that you {verbs[value]} my brother on day {k}"
        norms.append([f"s{k}", rot, named[value], "acting", "1.0"])
        seen = rot if k % 3 else f"{rot} by the river"
        actions = {"moral_action": f"I shared day {k}", "immoral_action": f"I robbed day {k}"}
        stories.append({"ID": f"t{k}", "norm": seen, **actions})
    columns = "situation-short-id,rot,rot-moral-foundations,action,action-moral-judgment"
    (tmp_path / "sc.csv").write_text("\n".join([columns, *(",".join(row) for row in norms)]) + "\n", encoding="utf-8")
    (tmp_path / "ms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories), encoding="utf-8")
    settings = {
        "data": {"social_chemistry": [str(tmp_path / "sc.csv")], "moral_stories": [str(tmp_path / "ms.jsonl")]},
        "encoder": {"source": save_tiny_encoder(tmp_path / "encoder"), "max_tokens": 32},
        "fit": FIT.model_copy(update={"epochs": 8}).model_dump(),
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    assert main(JOB, ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["stories"] == 60
    assert summary["stories_human"] == 40
    assert summary["stories_predicted"] + summary["stories_without_value"] == 20
    assert summary["auc_relevance_care"] > 0.9
    assert summary["auc_authority"] is None
    examples = read_table(tmp_path / "run/examples_follows.parquet", VALUE_EXAMPLES).to_pandas()
    human = examples[examples["label_source"] == "human"]
    assert human.loc[human["text"] == "I shared day 1", ["care", "loyalty"]].isna().to_numpy().tolist() == [
        [True, False]
    ]

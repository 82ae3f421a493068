"""The realign job and `realign: true` of the pipeline, end to end on tiny models: tables, artefact, report, errors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from consilience.lm.annotators import AnnotatorConfig
from consilience.lm.pool import open_scorer
from consilience.table_schema import read_table
from consilience.tables import ANNOTATIONS, ANNOTATORS, REALIGNED_F1, REALIGNMENT
from consilience.theories import pick_theories
from jobs import pipeline, realign
from jobs.cli import main

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from realign_models import save

pytestmark = pytest.mark.chaos

ITEMS = 14
TRAINING = {"epochs": 2, "warmup_epochs": 2, "patience": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def finished(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline run with realignment of the worst pair."""
    folder = tmp_path_factory.mktemp("job")
    source = save(folder / "models")
    rows = [{"item_id": f"d{k}", "text": f"I {'kept' if k % 2 else 'returned'} {k} coins."} for k in range(ITEMS)]
    (folder / "dilemmas.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    tiny = {"kind": "transformers", "source": source, "dtype": "float32"}
    config = {
        "dilemmas": str(folder / "dilemmas.jsonl"),
        "theories": ["deontology", "virtue"],
        "pool": [
            {"annotator": "tiny", **tiny},
            {"annotator": "tiny-nurse", "persona": "a hospital nurse", **tiny},
            {"annotator": "tiny-judge", "persona": "a retired judge", **tiny},
            {"annotator": "random01", "kind": "synthetic", "behaviour": "random01"},
        ],
        "realign": True,
        "realignment": {"pairs": ["tiny/deontology"], "force": True, "training": TRAINING, "split": {"folds": 2}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(folder / "cache"))
        assert main(pipeline.JOB, ["--config", str(folder / "pipeline.yaml"), "--out", str(folder / "run")]) == 0
        yield folder


@pytest.mark.timeout(300)
def test_the_pipeline_realigns_and_says_what_came_of_it(finished: Path) -> None:
    run = finished / "run"
    summary = json.loads((run / "summary.json").read_text())
    for name in ("f1_raw", "f1_head", "f1_tokens", "js_raw", "js_head", "js_tokens", "artefact_bytes", "verdict"):
        assert summary[name] is not None, name
    (row,) = read_table(run / "realigned/realignment.parquet", REALIGNMENT).to_pylist()
    assert (row["annotator"], row["theory"], row["held_out"]) == ("tiny", "deontology", ITEMS)
    assert row["f1_gain"] == pytest.approx(row["f1_tokens"] - row["f1_head"])
    changes = read_table(run / "realigned/realigned_f1.parquet", REALIGNED_F1).to_pandas()
    assert len(changes) == 4 * 2
    assert changes["realigned"].sum() == 1
    for folder in (run, run / "realigned"):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "tiny under deontology" in page
        assert "head and tokens" in page


@pytest.mark.timeout(300)
def test_the_job_realigns_a_finished_run(finished: Path) -> None:
    config = finished / "realign.yaml"
    config.write_text(yaml.safe_dump({"pairs": ["tiny/virtue"], "training": TRAINING, "split": {"folds": 2}}))
    out = finished / "again"
    arguments = ["--config", str(config), "--run", str(finished / "run"), "--out", str(out)]
    assert main(realign.JOB, arguments) == 0
    (row,) = read_table(out / "realignment.parquet", REALIGNMENT).to_pylist()
    assert row["verdict"] == "stopped", "without force, a random model's consensus is no target"
    assert row["reason"]
    forced = [*arguments[:-1], str(finished / "forced"), "--set", "force=true"]
    assert main(realign.JOB, forced) == 0
    out = finished / "forced"
    (row,) = read_table(out / "realignment.parquet", REALIGNMENT).to_pylist()
    annotators = read_table(out / "annotators.parquet", ANNOTATORS).to_pandas().set_index("annotator")
    kept = row["verdict"] == "kept"
    assert ("tiny@realigned" in annotators.index) == kept
    assert ("tiny" in annotators.index) != kept
    annotations = read_table(out / "annotations.parquet", ANNOTATIONS).to_pandas()
    assert len(annotations) == ITEMS * 2 * 4
    before = (out / "summary.json").stat().st_mtime_ns, json.loads((out / "summary.json").read_text())
    assert main(realign.JOB, forced) == 0
    assert json.loads((out / "summary.json").read_text()) == before[1], "a finished stage is not run again"


@pytest.mark.timeout(120)
def test_the_artefact_judges_new_dilemmas(finished: Path) -> None:
    settings = json.loads((finished / "run/manifest.json").read_text())["config"]["pool"][0]
    path = finished / "run/realigned/artefacts/tiny-deontology.safetensors"
    block = {**settings, "annotator": "tiny@realigned", "kind": "realigned", "parent": "tiny", "artefacts": [str(path)]}
    scorer = open_scorer(TypeAdapter(AnnotatorConfig).validate_python(block), finished)
    found = scorer.score(["I lost seven coins."], pick_theories(["deontology", "virtue"]))
    assert ((found.score > 0) & (found.score < 1)).all()
    assert np.isnan(found.answer_mass).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("[tiny/kindness]", "pairs: 'tiny/kindness': expected annotator/theory of the run, such as tiny/justice"),
        ("[random01/virtue]", "pairs: 'random01/virtue' is of kind synthetic; only kind transformers can be realigned"),
    ],
)
def test_a_wrong_pair_is_one_line(finished: Path, pairs: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run", str(finished / "run"), "--out", str(finished / "wrong"), "--set", f"pairs={pairs}"]
    assert main(realign.JOB, arguments) == 2
    assert capsys.readouterr().err.strip() == f"error: {message}"


def test_what_is_no_finished_run_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(realign.JOB, ["--run", str(finished), "--out", str(finished / "wrong")]) == 2
    assert "not a run folder" in capsys.readouterr().err

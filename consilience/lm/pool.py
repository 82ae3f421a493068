"""From an annotator's config block to a scorer, to its row in the `annotators` table, and to its digest."""

from functools import cache
from pathlib import Path
from typing import Any

from consilience.files import digest_file, digest_json
from consilience.lm.annotators import AnnotatorConfig, CalibratedAnnotator, RealignedAnnotator, SyntheticAnnotator
from consilience.lm.openai_annotator import OpenAIAnnotator, read_key, request_digest
from consilience.lm.prompts import wording_digest
from consilience.lm.scorer import Scorer
from consilience.lm.sources import check_source, digest_adapter, open_source
from consilience.lm.synthetic import RECORDED, SyntheticScorer
from consilience.lm.vllm_annotator import VLLMAnnotator, check_vllm


def check(config: AnnotatorConfig) -> None:
    """Check that what an annotator needs is there, without loading, converting or sending anything.

    Raises:
        UserError: it is not.
    """
    if isinstance(config, SyntheticAnnotator):
        SyntheticScorer(config)
    elif isinstance(config, OpenAIAnnotator):
        read_key(config)
    else:
        if isinstance(config, VLLMAnnotator):
            check_vllm()
        if isinstance(config, RealignedAnnotator):
            _digest_artefacts(config)
        if isinstance(config, CalibratedAnnotator):
            digest_adapter(config.adapter)
        check_source(config.source, config.revision)


def open_scorer(config: AnnotatorConfig, answers: Path) -> Scorer:
    """The scorer of an annotator; a model that several annotators of this process use is loaded once.

    Args:
        config: the annotator.
        answers: folder for the answers that are paid for, a folder per annotator in it.

    Raises:
        UserError: what the annotator needs is not there.
    """
    if isinstance(config, SyntheticAnnotator):
        return SyntheticScorer(config)
    # Here, because each takes seconds to import and most processes need one of them at most.
    if isinstance(config, OpenAIAnnotator):
        from consilience.lm.openai_scorer import OpenAIScorer

        return OpenAIScorer(config, answers / config.annotator)
    if isinstance(config, RealignedAnnotator):
        from consilience.realign.scorer import open_realigned

        return open_realigned(config)
    from consilience.lm.transformers_scorer import TransformersScorer

    if isinstance(config, VLLMAnnotator):
        from consilience.lm.vllm_model import load_vllm_model

        model = load_vllm_model(config.source, config.revision, config.dtype, config.num_gpus, config.cache_gib)
        return TransformersScorer(model, config.persona, config.elicitation)
    from consilience.lm.language_model import load_model

    adapter = config.adapter if isinstance(config, CalibratedAnnotator) else None
    loaded = load_model(config.source, config.revision, config.dtype, adapter)
    return TransformersScorer(loaded, config.persona, config.elicitation)


def describe(config: AnnotatorConfig) -> dict[str, Any]:
    """The annotator's row of the `annotators` table."""
    row: dict[str, Any] = {"annotator": config.annotator, "kind": config.kind, "group": config.group}
    if isinstance(config, SyntheticAnnotator):
        return {**row, "source": config.behaviour}
    row |= {"persona": config.persona, "elicitation": config.elicitation}
    if isinstance(config, OpenAIAnnotator):
        return {**row, "source": f"{config.base_url} {config.model}"}
    files = open_source(config.source, config.revision)
    licence = f"{files.licence} ({files.licence_note})" if files.licence_note else files.licence
    if isinstance(config, RealignedAnnotator):
        row |= {"artefact": ", ".join(map(str, config.artefacts)), "parent": config.parent}
    if isinstance(config, CalibratedAnnotator):
        row["adapter"] = str(config.adapter)
    return {
        **row,
        "source": config.source,
        "revision": config.revision,
        "digest": files.digest,
        "licence": licence,
    }


@cache
def annotator_digest(config: AnnotatorConfig) -> str:
    """Hexadecimal digest of all that decides an annotator's scores: weights, tokeniser, wording, parameters."""
    if isinstance(config, SyntheticAnnotator):
        settings = config.model_dump(mode="json", exclude={"group"})
        if config.behaviour in RECORDED and config.recording is not None:
            return digest_json([settings, digest_file(config.recording / "annotations.parquet")])
        return digest_json(settings)
    if isinstance(config, OpenAIAnnotator):
        return request_digest(config)
    files = open_source(config.source, config.revision)
    wording = wording_digest(config.elicitation, config.persona)
    parts = [config.kind, files.digest, files.settings_digest, config.dtype, config.elicitation, wording]
    if isinstance(config, RealignedAnnotator):
        parts += _digest_artefacts(config)
    if isinstance(config, CalibratedAnnotator):
        parts.append(digest_adapter(config.adapter))
    return digest_json(parts)


def _digest_artefacts(config: RealignedAnnotator) -> list[str]:
    """Digests of the theory tokens' files; the JSON beside each holds, and so fixes, nothing that decides a score."""
    return [digest_file(path) for path in config.artefacts]

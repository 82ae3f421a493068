"""Pipeline, the main job: annotate dilemmas with a pool of language models, then find their consensus.

With `realign: true`, models that stand apart are then pulled back to it; what came of that lies in the run folder's
subfolder `realigned`, a run folder of its own. One run folder holds everything; the same command again goes on where it
stopped.
"""

import sys

from pydantic import Field

from consilience.realign.settings import RealignOptions, named_pair
from consilience.runs import Run
from jobs import aggregate, annotate
from jobs.cli import Job, Summary, main, show_report


class PipelineConfig(annotate.AnnotateConfig, aggregate.ConsensusConfig):
    """What to judge, by whom, how to find the consensus, and whether to pull models back to it."""

    realign: bool = Field(False, description="realign models of kind transformers that the consensus flags")
    realignment: RealignOptions = Field(RealignOptions(), description="as the config of jobs.realign")


def plan(config: PipelineConfig) -> list[str]:
    """Check inputs and model sources; say what would be done."""
    aggregate.check_inputs(config.gold, config.votes, config.repeats)
    aggregate.check_groups(config.groups, [annotator.annotator for annotator in config.pool])
    lines = [*annotate.plan(config), f"then aggregate by EM ({config.em.mstep} M-step, prior {config.em.prior})"]
    if not config.realign:
        return lines
    pairs = config.realignment.pairs
    if isinstance(pairs, str):
        return [*lines, f"then realign {'the worst pair' if pairs == 'worst' else 'all flagged pairs'}"]
    pool = {annotator.annotator: annotator for annotator in config.pool}
    named = [named_pair(name, pool, config.theories) for name in pairs]
    return [*lines, *(f"then realign {name} under {theory}" for name, theory in named)]


def execute(config: PipelineConfig, run: Run) -> Summary:
    """Annotate, aggregate and realign, in one run folder."""
    judged = annotate.execute(config, run)
    if config.repeats is None and (run / "repeats.parquet").is_file():
        config = config.model_copy(update={"repeats": run / "repeats.parquet"})
    found = {**judged, **aggregate.aggregate(run / "annotations.parquet", config, run)}
    if not config.realign:
        return found
    from jobs.realign import within  # here, because torch takes seconds to import and most runs need none in the driver

    return {**found, **within(run, config.realignment, config.seed)}


JOB = Job("pipeline", __doc__, PipelineConfig, plan, execute, inputs=("dilemmas", "gold", "votes"), show=show_report)

if __name__ == "__main__":
    sys.exit(main(JOB))

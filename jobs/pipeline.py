"""Pipeline, the main job: annotate dilemmas with a pool of language models, then find their consensus.

One run folder holds everything; the same command again goes on where it stopped.
"""

import sys

from consilience.runs import Run
from jobs import aggregate, annotate
from jobs.cli import Job, Summary, main, show_report


class PipelineConfig(annotate.AnnotateConfig, aggregate.ConsensusConfig):
    """What to judge, by whom, and how to find the consensus."""


def plan(config: PipelineConfig) -> list[str]:
    """Check inputs and model sources; say what would be done."""
    aggregate.check_inputs(config.gold, config.votes)
    return [*annotate.plan(config), f"then aggregate by EM ({config.em.mstep} M-step, prior {config.em.prior})"]


def execute(config: PipelineConfig, run: Run) -> Summary:
    """Annotate, then aggregate, in one run folder."""
    judged = annotate.execute(config, run)
    return {**judged, **aggregate.aggregate(run / "annotations.parquet", config, run)}


JOB = Job("pipeline", __doc__, PipelineConfig, plan, execute, inputs=("dilemmas", "gold", "votes"), show=show_report)

if __name__ == "__main__":
    sys.exit(main(JOB))

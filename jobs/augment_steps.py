"""The steps of learning a table on the cluster, each done once per run folder and fingerprint."""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from actors.table_sampler import Draw, sample_on_cluster
from actors.tabular_worker import fine_tune, improve, train_discriminator
from consilience.files import atomic_folder, digest_json, write_json
from consilience.runs import Run
from consilience.tabular.adversarial import ROUND, Contest, Rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig
from jobs.reporting import say

if TYPE_CHECKING:
    from consilience.ppo.trainer import Metrics
    from jobs.augment import AugmentConfig

MODELS = "models"
"""Folder of models and discriminators within a run's."""

_TRAINING, _SAMPLES = "training", "samples"


class ClusterSteps:
    """`adversarial.Steps` on Ray. A stage has its folder's name; models and discriminators lie in `MODELS`."""

    def __init__(self, config: "AugmentConfig", run: Run, schema: TableSchema, data: str, guide: str | None) -> None:
        """`data` is a digest of what the rows and the base model are, `guide` one of the discriminator's encoder."""
        self._run, self._schema, self._workers = run, schema, config.workers
        fields = {name: getattr(config, name) for name in GeneratorConfig.model_fields}
        self._config = GeneratorConfig(**fields)
        kept = {"fine_tuning", "validation", "seed"}
        self._tuned = digest_json([data, schema.to_json(), config.model_dump(mode="json", include=kept)])
        kept = {"discriminator", "adversarial", "batch_size"}
        self._guided = digest_json([self._tuned, guide, config.model_dump(mode="json", include=kept)])

    def fine_tune(self, train: Rows, held_out: Rows, folder: Path) -> None:
        name = f"{folder.name}-{self._tuned[:12]}"
        if not self._run.finished(folder.name, self._tuned, f"{MODELS}/{folder.name}/schema.json"):
            with self._run.stage(folder.name, self._tuned):
                model, history = fine_tune(
                    self._config, self._schema, train, held_out, self._workers, self._run / _TRAINING, name
                )
                # A copy: until the stage is noted as finished, a training that is resumed needs its own.
                shutil.rmtree(folder, ignore_errors=True)
                with atomic_folder(folder) as new:
                    shutil.copytree(model, new, dirs_exist_ok=True)
                self._run.record(fine_tuning=history)
            shutil.rmtree(self._run / _TRAINING / name, ignore_errors=True)

    def sample(self, model: Path, n: int, name: str) -> Rows:
        return self.draw({name: Draw(model, n, {}, (self._config.seed, ROUND))})[name]

    def draw(self, draws: Mapping[str, Draw]) -> dict[str, Rows]:
        """Rows by name; those that are not there yet are drawn together, and how fast is noted in the manifest."""
        files = {name: f"{_SAMPLES}/{name}.json" for name in draws}
        versions = {
            name: digest_json([self._guided, draw.model.name, draw.n, sorted(draw.given.items()), draw.seed])
            for name, draw in draws.items()
        }
        missing = [name for name in draws if not self._run.finished(name, versions[name], files[name])]
        if missing:
            with ExitStack() as stages:
                for name in missing:
                    stages.enter_context(self._run.stage(name, versions[name]))
                found = sample_on_cluster([draws[name] for name in missing], self._config.batch_size, self._workers)
                speeds = self._run.manifest.get("rows_per_second", {})
                for name, sampled in zip(missing, found, strict=True):
                    write_json(self._run / files[name], sampled.rows)
                    speeds = {**speeds, name: sampled.rows_per_second}
                    say(f"{name}: {len(sampled.rows)} rows, {sampled.rows_per_second:.1f}/s", stage=name)
                self._run.record(rows_per_second=speeds)
        return {name: json.loads((self._run / file).read_text(encoding="utf-8")) for name, file in files.items()}

    def discriminate(self, rows: Contest, folder: Path) -> float:
        name = folder.name
        if not self._run.finished(name, self._guided, f"{MODELS}/{name}/auc.json"):
            with self._run.stage(name, self._guided):
                auc = train_discriminator(self._config, self._schema, rows, self._workers, folder)
                write_json(folder / "auc.json", auc)
                say(f"{name}: AUC {auc:.3f} on validation rows", stage=name)
        return float(json.loads((folder / "auc.json").read_text(encoding="utf-8")))

    def improve(self, model: Path, discriminator: Path, folder: Path) -> "list[Metrics]":
        name, training = folder.name, f"{folder.name}-{self._guided[:12]}"
        if not self._run.finished(name, self._guided, f"{MODELS}/{name}/ppo.json"):
            with self._run.stage(name, self._guided):
                history = improve(
                    self._config, model, discriminator, self._workers, self._run / _TRAINING, training, folder
                )
                write_json(folder / "ppo.json", history)
            shutil.rmtree(self._run / _TRAINING / training, ignore_errors=True)
        updates: list[Metrics] = json.loads((folder / "ppo.json").read_text(encoding="utf-8"))
        return updates

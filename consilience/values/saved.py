"""Trained adapters on disk: a folder each, and a file that says on which base they belong."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilience.errors import UserError, one_line
from consilience.files import atomic_path, digest_file, digest_json, write_json
from consilience.lm.sources import ADAPTER_SETTINGS, ADAPTER_WEIGHTS
from consilience.values.base import BaseConfig, base_digest

_FILE = "adapters.json"


@dataclass(frozen=True, slots=True)
class SavedAdapters:
    """What `save_adapters` left in a run folder.

    Attributes:
        adapters: name to folder, in PEFT's format.
        about: what the training wants remembered, such as an aggregator's context.
        weights: name of an adapter's folder to the digest that its weights had when they were saved.
    """

    base: BaseConfig
    base_digest: str
    adapters: dict[str, Path]
    about: dict[str, Any]
    weights: dict[str, str]

    def digest(self) -> str:
        """Hexadecimal digest of all that decides what base and adapters say."""
        files = [
            [name, digest_file(folder / ADAPTER_WEIGHTS), digest_file(folder / ADAPTER_SETTINGS)]
            for name, folder in self.adapters.items()
        ]
        return digest_json([self.base_digest, files])


def save_adapters(run: Path, base: BaseConfig, adapters: Mapping[str, Path], about: Mapping[str, Any]) -> None:
    """Copy `adapters` (name to a checkpoint's folder) into `run`/adapters and describe them in `run`/adapters.json.

    Of a checkpoint only the adapter is kept; optimiser and value head stay behind. The description goes first and comes
    last: where this is interrupted, `read_adapters` finds none.
    """
    (run / _FILE).unlink(missing_ok=True)
    weights = {}
    for name, folder in adapters.items():
        place = run / "adapters" / name
        with atomic_path(place / ADAPTER_WEIGHTS) as temporary:
            shutil.copyfile(folder / ADAPTER_WEIGHTS, temporary)
        settings = json.loads((folder / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
        write_json(place / ADAPTER_SETTINGS, {**settings, "base_model_name_or_path": base.source})
        weights[name] = digest_file(place / ADAPTER_WEIGHTS)
    facts = {"base": base.model_dump(mode="json"), "base_digest": base_digest(base), "about": dict(about)}
    write_json(run / _FILE, {**facts, "adapters": dict(sorted(weights.items()))})


def read_adapters(run: Path) -> SavedAdapters:
    """The adapters of a run folder.

    Raises:
        UserError: it holds none, or their description cannot be read.
    """
    try:
        facts = json.loads((run / _FILE).read_text(encoding="utf-8"))
        weights = dict(facts["adapters"])
        folders = {name: (run / "adapters" / name).absolute() for name in weights}
        return SavedAdapters(BaseConfig(**facts["base"]), facts["base_digest"], folders, facts["about"], weights)
    except FileNotFoundError:
        raise UserError(f"{run}: no {_FILE}; expected a finished run of train_agents or train_aggregator") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / _FILE}: not a description of adapters: {one_line(error)}") from None


def check_saved(saved: SavedAdapters) -> None:
    """Raise UserError unless base and weights are the very ones that were trained."""
    if base_digest(saved.base) != saved.base_digest:
        raise UserError(f"model source '{saved.base.source}': not the model that the adapters were trained on")
    for folder in saved.adapters.values():
        if digest_file(folder / ADAPTER_WEIGHTS) != saved.weights[folder.name]:
            raise UserError(f"{folder / ADAPTER_WEIGHTS}: not the weights that {_FILE} describes; train again")

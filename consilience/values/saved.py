"""Trained adapters on disk: a folder each, and a file that says on which base they belong."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilience.errors import UserError
from consilience.files import digest_file, digest_json, write_json
from consilience.values.base import BaseConfig, base_digest

_FILE = "adapters.json"
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class SavedAdapters:
    """What `save_adapters` left in a run folder.

    Attributes:
        adapters: name to folder, in PEFT's format.
        about: what the training wants remembered, such as an aggregator's context.
    """

    base: BaseConfig
    base_digest: str
    adapters: dict[str, Path]
    about: dict[str, Any]

    def digest(self) -> str:
        """Hexadecimal digest of all that decides what base and adapters say."""
        files = [
            [name, digest_file(folder / _WEIGHTS), digest_file(folder / _SETTINGS)]
            for name, folder in self.adapters.items()
        ]
        return digest_json([self.base_digest, files])


def save_adapters(run: Path, base: BaseConfig, adapters: Mapping[str, Path], about: Mapping[str, Any]) -> None:
    """Copy `adapters` (name to a checkpoint's folder) into `run`/adapters and describe them in `run`/adapters.json.

    Of a checkpoint only the adapter is kept; optimiser and value head stay behind.
    """
    for name, folder in adapters.items():
        place = run / "adapters" / name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / _WEIGHTS, place / _WEIGHTS)
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        write_json(place / _SETTINGS, {**settings, "base_model_name_or_path": base.source})
    facts = {"base": base.model_dump(mode="json"), "base_digest": base_digest(base), "adapters": sorted(adapters)}
    write_json(run / _FILE, {**facts, "about": dict(about)})


def read_adapters(run: Path) -> SavedAdapters:
    """The adapters of a run folder.

    Raises:
        UserError: it holds none.
    """
    try:
        facts = json.loads((run / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{run}: no {_FILE}; expected a finished run of train_agents or train_aggregator") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{run / _FILE}: cannot be read: {error}") from None
    folders = {name: (run / "adapters" / name).absolute() for name in facts["adapters"]}
    return SavedAdapters(BaseConfig(**facts["base"]), facts["base_digest"], folders, facts["about"])


def check_base(saved: SavedAdapters) -> None:
    """Raise UserError unless the base is the very one that the adapters were trained on."""
    if base_digest(saved.base) != saved.base_digest:
        raise UserError(f"model source '{saved.base.source}': not the model that the adapters were trained on")

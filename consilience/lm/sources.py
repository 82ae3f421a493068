"""Where a model comes from: a hub id, a local folder or an installed package; always a safetensors folder in the end.

A source is written as

- `org/name` with a revision, the 40 hexadecimal digits of a commit: a model of the Hugging Face hub;
- a path: a local folder with `config.json` and `*.safetensors`;
- `package:MODULE/FOLDER`: such a folder inside an installed package;
- `package:MODULE/FILE.gguf`: a GGUF file inside an installed package;
- `package:MODULE`: a GGUF file that the package ships in parts and joins with its function `assemble(path)`.

GGUF is dequantised once, to bfloat16 safetensors in the cache (`CONSILIENCE_CACHE`, by default ~/.cache/consilience).
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from filelock import FileLock

from consilience.errors import UserError, first_line
from consilience.files import digest_file, digest_json, write_json

ADAPTER_SETTINGS, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PACKAGE = "package:"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""What transformers reads first. Without either it would turn to files that can hold a pickle."""
_SETTINGS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
_LICENCES = {
    "apache-2.0": ("Apache-2.0", ""),
    "mit": ("MIT", ""),
    "gemma": ("Gemma Terms of Use", "use restrictions apply, see ai.google.dev/gemma/terms"),
    "unknown": ("unknown", "no licence is stated with the model"),
}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        folder: holds config.json, *.safetensors, the tokeniser.
        digest: sha256 of the weights (the bytes of the safetensors files in order of name), hexadecimal.
        settings_digest: sha256 of configuration, tokeniser and chat template.
        licence, licence_note: as the model card or GGUF metadata states it, and what a user should know of it.
    """

    source: str
    revision: str | None
    folder: Path
    digest: str
    settings_digest: str
    licence: str
    licence_note: str


def cache_folder() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("CONSILIENCE_CACHE") or Path.home() / ".cache" / "consilience")


def check_source(source: str, revision: str | None = None) -> None:
    """Check that a source is well formed and, unless it is on the hub, there. Downloads and converts nothing.

    Raises:
        UserError: it is not.
    """
    if source.startswith(_PACKAGE):
        if revision is not None:
            raise UserError(f"model source '{source}': a package has no revision; leave 'revision' out")
        _find_in_package(source)
    elif revision is not None:
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise UserError(
                f"model source '{source}': revision '{revision}' is not a commit; expected its 40 hexadecimal digits"
            )
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
            raise UserError(f"model source '{source}': not a hub id; expected org/name")
    elif not Path(source).expanduser().is_dir():
        raise UserError(
            f"model source '{source}': no such folder; a hub id needs 'revision', the 40 hexadecimal digits of a commit"
        )


@cache
def open_source(source: str, revision: str | None = None) -> ModelFiles:
    """Find a model's files; the first time, download them from the hub or convert them from GGUF.

    Raises:
        UserError: the source does not exist, cannot be reached, holds no safetensors, or the cache cannot be written.
    """
    check_source(source, revision)
    with _explained(source):
        if source.startswith(_PACKAGE):
            place = _find_in_package(source)
            folder = place if _holds_model(place) else _converted(source, place)
        elif revision is not None:
            folder = _download(source, revision)
        else:
            folder = Path(source).expanduser()
        if not _holds_model(folder):
            raise UserError(
                f"model source '{source}': expected config.json and *.safetensors ({' or '.join(_WEIGHTS)}) in {folder}"
            )
        return _describe(source, revision, folder)


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn what a disk raises into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"model source '{source}': {error.filename or cache_folder()}: {error.strerror or error}; "
            "CONSILIENCE_CACHE names the folder that models are kept in"
        ) from error


def digest_adapter(folder: Path) -> str:
    """sha256 of an adapter's settings and weights, hexadecimal.

    Raises:
        UserError: one of its files is missing.
    """
    return digest_json([digest_file(folder / name) for name in (ADAPTER_SETTINGS, ADAPTER_WEIGHTS)])


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in _WEIGHTS)


def _find_in_package(source: str) -> Path:
    """The file or folder that a package source names; the package's own folder where it names none."""
    module, _, inside = source.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model source '{source}': no package '{module}' is installed")
    place = Path(next(iter(spec.submodule_search_locations))) / inside
    if inside and not _holds_model(place) and not (place.suffix == ".gguf" and place.is_file()):
        raise UserError(f"model source '{source}': package '{module}' has no GGUF file or model folder '{inside}'")
    return place


def _download(source: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [*_SETTINGS, "*.safetensors", "README.md"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = first_line(error)
        raise UserError(f"model source '{source}': revision {revision} is not to be had: {reason}") from None


def _converted(source: str, place: Path) -> Path:
    """The safetensors folder made of a GGUF file; where several processes ask at once, one converts."""
    module = source.removeprefix(_PACKAGE).partition("/")[0]
    distributions = importlib.metadata.packages_distributions().get(module, [])
    versions = [importlib.metadata.version(name) for name in distributions]
    identity = [source, versions, place.stat().st_size if place.is_file() else None]
    folder = cache_folder() / "models" / f"{module}-{digest_json(identity)[:16]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            temporary = folder.with_name(f"{folder.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            if place.is_file():
                _convert(place, temporary)
            else:
                assembled = _assemble(source, module, temporary)
                _convert(assembled, temporary)
                assembled.unlink()
            temporary.rename(folder)
    return folder


def _assemble(source: str, module: str, folder: Path) -> Path:
    try:
        return Path(importlib.import_module(module).assemble(folder / f"{module}.gguf"))
    except AttributeError:
        raise UserError(
            f"model source '{source}': the package has no assemble(path); name its file: {source}/FILE.gguf"
        ) from None
    except (ImportError, FileNotFoundError) as error:
        raise UserError(f"model source '{source}': a part of the package is missing: {error}") from None


def _convert(file: Path, folder: Path) -> None:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    dense: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
    # transformers parses a large vocabulary three times over, and makes gguf's table of names for every submodule anew
    with (
        patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(**place, **dense).save_pretrained(folder)
    licence = read_gguf_metadata(str(file))[0].get("general.license", "unknown")
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")


def _describe(source: str, revision: str | None, folder: Path) -> ModelFiles:
    """Digests and facts of a model folder, kept in the cache so that large weights are read for it once."""
    weights = sorted(folder.glob("*.safetensors"))
    settings = sorted(path for pattern in _SETTINGS for path in folder.glob(pattern))
    card = folder / "README.md"
    files = [*weights, *settings, *([card] if card.is_file() else [])]
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    identity = [source, revision, str(folder.absolute()), stamps, [field.name for field in fields(ModelFiles)]]
    kept = cache_folder() / "descriptions" / f"{digest_json(identity)[:32]}.json"
    if kept.is_file():
        return ModelFiles(**{**json.loads(kept.read_text(encoding="utf-8")), "folder": folder})
    licence, note = _licence(card)
    described = ModelFiles(
        source=source,
        revision=revision,
        folder=folder,
        digest=_digest(weights),
        settings_digest=_digest(settings),
        licence=licence,
        licence_note=note,
    )
    write_json(kept, {**asdict(described), "folder": str(folder)})
    return described


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _licence(card: Path) -> tuple[str, str]:
    """The licence in a model card's front matter, and what a user should know of it."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        facts = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        facts = None
    name = facts.get("license_name") or facts.get("license") if isinstance(facts, dict) else None
    name = name if isinstance(name, str) else "unknown"
    return _LICENCES.get(name, (name, "read its terms with the model"))

"""Theory tokens as files: a few kilobytes of safetensors (rows, head) and a JSON that says what they are.

`NAME.safetensors` and `NAME.json` lie side by side. The JSON holds a digest of the tensors and one of itself, so an
edited file is noticed; it names the base model by the digest of its weights, so they go on no other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from consilience.config import Config, parse_config
from consilience.errors import UserError, first_line
from consilience.files import atomic_path, digest_file, digest_json, read_json, write_json
from consilience.lm.annotator_block import Elicitation
from consilience.lm.language_model import LanguageModel
from consilience.lm.sources import ModelFiles
from consilience.realign.objective import Head
from consilience.realign.theory_tokens import AppliedTokens
from consilience.theories import THEORY_NAMES


class Description(Config):
    """The JSON file, key by key, its own digest apart.

    Attributes:
        base_digest, base_settings_digest: of the base model's weights, and of its tokeniser and configuration.
        word: ids of the theory word's own sub-tokens; `tokens` are the names of those that replace them.
        objective: how it was trained.
        data: digests of items and targets, and how many items there were.
        certificate: what was gained and harmed; empty before it is judged.
        tensors: sha256 of the safetensors file.
    """

    format: Literal["consilience.theory_tokens"] = "consilience.theory_tokens"
    version: Literal[1] = 1
    annotator: str
    theory: str
    base_source: str
    base_revision: str | None
    base_digest: str
    base_settings_digest: str
    persona: str | None
    elicitation: Elicitation
    word: tuple[int, ...]
    tokens: tuple[str, ...]
    width: int
    head: Literal["linear", "mlp"]
    objective: dict[str, Any]
    data: dict[str, Any]
    certificate: dict[str, Any]
    tensors: str = ""


@dataclass(frozen=True, eq=False)
class Artefact:
    """Theory tokens and their head.

    Attributes:
        about: the JSON's content.
        rows: (N, width) float32, as the base model's embedding layer would put them out.
        head: predicts acceptability at the last position.
    """

    about: Description
    rows: Tensor
    head: Head

    def save(self, path: Path) -> int:
        """Write `path` (ending in .safetensors) and the JSON beside it; returns their size in bytes."""
        tensors = {"rows": self.rows, **{f"head.{name}": value for name, value in self.head.state_dict().items()}}
        with atomic_path(path) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        content = self.about.model_copy(update={"tensors": digest_file(path)}).model_dump(mode="json")
        write_json(path.with_suffix(".json"), {**content, "digest": digest_json(content)})
        return path.stat().st_size + path.with_suffix(".json").stat().st_size

    @classmethod
    def load(cls, path: Path) -> "Artefact":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, is not what its name says, or was edited.
        """
        about = _read_description(path.with_suffix(".json"))
        if digest_file(path) != about.tensors:
            raise UserError(f"{path}: was changed after it was written; expected sha256 {about.tensors[:12]}")
        try:
            tensors = load_file(path)
            rows = tensors.pop("rows")
            head = Head(about.width, about.head).requires_grad_(False)
            head.load_state_dict({name.removeprefix("head."): value for name, value in tensors.items()})
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise UserError(f"{path}: not theory tokens of this version: {first_line(error)}") from None
        if rows.shape != (len(about.word), about.width):
            raise UserError(f"{path}: rows of shape {tuple(rows.shape)}; expected {(len(about.word), about.width)}")
        return cls(about, rows, head)

    def check_base(self, files: ModelFiles, width: int) -> None:
        """Raise UserError unless `files`, whose hidden states have `width`, is the model the tokens were trained on."""
        about = self.about
        what = f"theory tokens of '{about.annotator}' for {about.theory}"
        if width != about.width:
            raise UserError(f"{what}: trained on a model of width {about.width}; '{files.source}' has {width}")
        if (files.digest, files.settings_digest) != (about.base_digest, about.base_settings_digest):
            raise UserError(
                f"{what}: trained on '{about.base_source}' with digest {about.base_digest[:12]}; "
                f"'{files.source}' has {files.digest[:12]}, or another tokeniser"
            )

    def apply(self, model: LanguageModel, files: ModelFiles) -> AppliedTokens:
        """Put the tokens on a loaded model; `remove` of what is returned takes them off. Several may be on it at once.

        Raises:
            UserError: `files`, which `model` was loaded from, is another model than they were trained on.
        """
        self.check_base(files, model.width)
        return AppliedTokens(model.model, self.about.word, self.rows)


def _read_description(path: Path) -> Description:
    content = read_json(path, "the description of theory tokens, beside their .safetensors")
    digest = content.pop("digest", None)
    about = parse_config(Description, content, str(path))
    if digest != digest_json(content):
        raise UserError(f"{path}: was changed after it was written")
    if about.theory not in THEORY_NAMES:
        raise UserError(f"{path}: key 'theory': expected one of {', '.join(THEORY_NAMES)}, found {about.theory!r}")
    return about

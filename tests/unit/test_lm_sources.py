"""Model sources: every wrong one is named in a line; conversion happens once, whole or not at all."""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from consilience.errors import UserError
from consilience.lm import sources
from consilience.lm.sources import check_source, open_source

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    open_source.cache_clear()
    yield tmp_path / "cache"
    open_source.cache_clear()


def write_model(folder: Path, value: float = 1.0, card: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    save_file({"a": torch.full((3, 5), value), "b": torch.zeros(7)}, folder / "model.safetensors")
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `tinyweights` with a GGUF file, a model folder, and a way to assemble itself."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "tinyweights", raising=False)
    root = tmp_path / "site" / "tinyweights"
    write_model(root / "model")
    (root / "tiny.gguf").write_bytes(b"GGUF")
    (root / "__init__.py").write_text(
        "def assemble(path):\n    path.write_bytes(b'GGUF' * 2)\n    return path\nassert __name__ == 'tinyweights'\n"
    )
    return root


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("no/such/folder", None, "no such folder; a hub id needs 'revision'"),
        ("org/name", "main", "revision 'main' is not a commit; expected its 40 hexadecimal digits"),
        ("org/name", COMMIT[:-1], "is not a commit"),
        ("org/na me", COMMIT, "not a hub id; expected org/name"),
        ("package:no_such_package/x.gguf", None, "no package 'no_such_package' is installed"),
        ("package:../x.gguf", None, "no package '..' is installed"),
        ("package:tinyweights/absent.gguf", None, "has no GGUF file or model folder 'absent.gguf'"),
        ("package:tinyweights/__init__.py", None, "has no GGUF file or model folder"),
        ("package:tinyweights/model", COMMIT, "a package has no revision"),
    ],
)
def test_a_wrong_source_is_one_line(package: Path, source: str, revision: str | None, message: str) -> None:
    for open_it in (check_source, open_source):
        with pytest.raises(UserError, match=r"^model source '") as error:
            open_it(source, revision)
        assert message in str(error.value)
        assert source in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    check_source(str(tmp_path))
    with pytest.raises(UserError, match=r"expected config\.json and \*\.safetensors"):
        open_source(str(tmp_path))


def test_a_folder_is_described(tmp_path: Path, own_cache: Path) -> None:
    folder = write_model(tmp_path / "m", card="---\nlicense: apache-2.0\n---\nA model.")
    files = open_source(str(folder))
    assert files.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (files.licence, files.licence_note) == ("Apache-2.0", "")
    kept = [json.loads(path.read_text()) for path in own_cache.rglob("*.json")]
    assert [facts["digest"] for facts in kept] == [files.digest]
    assert kept[0]["source"] == str(folder)


def test_digests_follow_the_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    first = open_source(str(folder))
    open_source.cache_clear()
    assert open_source(str(folder)) == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    open_source.cache_clear()
    second = open_source(str(folder))
    assert second.digest == first.digest
    assert second.settings_digest != first.settings_digest
    write_model(folder, value=2.0)
    open_source.cache_clear()
    assert open_source(str(folder)).digest != first.digest


@pytest.mark.parametrize(
    ("card", "licence", "noted"),
    [
        (None, "unknown", True),
        ("no front matter", "unknown", True),
        ("---\nlicense: [a, b\n---\n", "unknown", True),
        ("---\nlicense: mit\n---\n", "MIT", False),
        ("---\nlicense: gemma\n---\n", "Gemma Terms of Use", True),
        ("---\nlicense: other\nlicense_name: house-1.0\n---\n", "house-1.0", True),
    ],
)
def test_the_licence_is_what_the_card_says(tmp_path: Path, card: str | None, licence: str, noted: bool) -> None:
    files = open_source(str(write_model(tmp_path / "m", card=card)))
    assert (files.licence, bool(files.licence_note)) == (licence, noted)


def test_a_model_folder_in_a_package_is_used_where_it_lies(package: Path) -> None:
    assert open_source("package:tinyweights/model").folder == package / "model"
    assert "tinyweights" not in sys.modules, "finding a package must not import it"


@pytest.mark.parametrize(
    ("source", "content"), [("package:tinyweights/tiny.gguf", b"GGUF"), ("package:tinyweights", b"GGUF" * 2)]
)
def test_gguf_is_converted_once_by_whoever_comes_first(
    package: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, source: str, content: bytes
) -> None:
    converted: list[bytes] = []

    def convert(file: Path, folder: Path) -> None:
        converted.append(file.read_bytes())
        time.sleep(0.2)
        write_model(folder)

    monkeypatch.setattr(sources, "_convert", convert)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(open_source.__wrapped__(source).folder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converted == [content]
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0].is_relative_to(own_cache)
    assert not list(found[0].glob("*.gguf"))


def test_a_conversion_that_dies_leaves_nothing_that_looks_whole(
    package: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path, folder: Path) -> None:
        write_model(folder)
        raise OSError(28, "No space left on device", str(folder))

    source = "package:tinyweights/tiny.gguf"
    monkeypatch.setattr(sources, "_convert", fail)
    with pytest.raises(UserError, match="No space left on device"):
        open_source(source)
    assert not [path for path in (own_cache / "models").iterdir() if path.suffix not in (".tmp", ".lock")]
    monkeypatch.setattr(sources, "_convert", lambda file, folder: write_model(folder))
    assert (open_source(source).folder / "model.safetensors").is_file()


def test_a_package_that_cannot_assemble_says_what_to_name(package: Path) -> None:
    (package / "__init__.py").write_text("")
    with pytest.raises(UserError, match=r"has no assemble\(path\); name its file: package:tinyweights/FILE\.gguf"):
        open_source("package:tinyweights")
    (package / "__init__.py").write_text("import a_part_that_is_absent\n")
    sys.modules.pop("tinyweights", None)
    with pytest.raises(UserError, match="a part of the package is missing: No module named 'a_part_that_is_absent'"):
        open_source("package:tinyweights")


def test_a_cache_that_cannot_be_written_is_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="CONSILIENCE_CACHE names the folder"):
        open_source("package:tinyweights/tiny.gguf")
    with pytest.raises(UserError, match="cache"):
        open_source("package:tinyweights/model")

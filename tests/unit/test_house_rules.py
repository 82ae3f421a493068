"""Rules of the house that a machine can keep: which way imports run, and what never appears."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"consilience": 0, "actors": 1, "jobs": 2, "serve_app": 2}
SOURCES = sorted(path for room in FLOORS for path in (ROOT / room).rglob("*.py"))

RUNS_WHAT_IT_READS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.hub.load", "torch.jit.load", "os.system", "os.popen"}
UNSAFE_METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}
UNSAFE_OPTIONS = {
    ("trust_remote_code", True),
    ("allow_pickle", True),
    ("weights_only", False),
    ("use_safetensors", False),
    ("safe_serialization", False),
    ("shell", True),
}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What could run code that came with data: loaders, and options of loaders."""
    yield from sorted(RUNS_WHAT_IT_READS & set(imported(tree)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in UNSAFE_CALLS or name.split(".")[-1] in UNSAFE_METHODS or name in ("yaml.load", "yaml.load_all"):
            yield name
        for option, value in UNSAFE_OPTIONS:
            for keyword in node.keywords:
                # A value that is not written here might be anything.
                if keyword.arg == option and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is not value
                ):
                    yield f"{name}({option}={ast.unparse(keyword.value)})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (room == "consilience" and name == "ray"), "the library never imports ray"
        if name in FLOORS and name != room:
            assert FLOORS[name] < FLOORS[room], f"{room} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe(path: Path) -> None:
    assert not list(unsafe(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=config.trust)",
        "model.save_pretrained(folder, safe_serialization=False)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_the_rule_sees_what_is_unsafe(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["model.eval()", "yaml.safe_load(text)", "np.load(path)", "f(trust_remote_code=False)"]
)
def test_the_rule_lets_the_rest_pass(line: str) -> None:
    assert not list(unsafe(ast.parse(line)))

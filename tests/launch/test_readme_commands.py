"""Every command of README's bash blocks, run in a fresh clone as a new user runs it.

``make test`` is what runs this, and has built the environment, which the clone borrows.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from domino_sglang.demo import packaged_drafter, prepare_target
from domino_sglang.measure.server_process import ServerProcess
from tests.unit.house.test_readme import ROOT, commands

BUILT = Path(sys.prefix)
# The packaged recipe's shape at a size of seconds; problems of arithmetic are prompts that nobody has to write first.
RECIPE = {
    "target": "demo",
    "work_dir": "run",
    "data": {"num_prompts": 6, "mix": {"maths": 1.0}, "greedy_share": 1.0, "max_prompt_tokens": 120}
    | {"max_new_tokens": 12, "slots": 6, "heldout": 2},
    "drafter": {"target_layer_ids": [1, 15, 28], "mask_token_id": 16, "num_hidden_layers": 1, "block_size": 4}
    | {"gru_hidden_dim": 16, "emb_dim": 8},
    "train": {"steps": 2, "batch_sequences": 2, "anchors_per_sequence": 4, "max_length": 128, "frequent_vocab": 256}
    | {"sampled_vocab": 64, "eval_every": 2, "eval_sequences": 1},
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    outside = tmp_path_factory.mktemp("fresh")
    clone, into = (next(words for words in commands() if words[0] == name) for name in ("git", "cd"))
    words = [f"file://{ROOT}" if word == "REPOSITORY" else word for word in clone]
    subprocess.run([*words, "--quiet"], cwd=outside, check=True)
    folder = outside / into[1]
    (folder / ".venv").symlink_to(BUILT)
    (folder / "RECIPE.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def run(clone):
    """Run words in the clone, with its code; what they printed."""
    path = os.pathsep.join([str(BUILT / "bin"), os.environ["PATH"]])
    code = os.pathsep.join([str(clone), str(clone / "kernels")])
    env = os.environ | {"PATH": path, "PYTHONPATH": code, "HF_HUB_OFFLINE": "1"}

    def finished(*words: str, timeout_s: float = 600) -> str:
        done = subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    finished.env = env
    return finished


def filled_in(words: list[str]) -> list[str]:
    return [{"TARGET": str(prepare_target()), "DRAFTER": str(packaged_drafter())}.get(word, word) for word in words]


def test_make_demo(run):
    # The environment is there: "-o" keeps make from building it again.
    said = run("make", "-o", ".venv/.installed", "demo")
    assert "Greedy texts: identical" in said and "acceptance length" in said


def test_pip_install(run, tmp_path):
    run(
        "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path), "."
    )
    entry_points = next(tmp_path.glob("domino_sglang-*.dist-info/entry_points.txt")).read_text()
    assert "domino-sglang" in entry_points and "sglang" in entry_points
    assert (tmp_path / "domino_kernels" / "py.typed").is_file() and (tmp_path / "domino_sglang" / "py.typed").is_file()
    assert (tmp_path / "domino_sglang" / "demo" / "drafter" / "model.safetensors").is_file()


def test_serving_a_model_of_ones_own(run, tmp_path):
    words = next(words for words in commands() if words[:3] == ["python", "-m", "sglang.launch_server"])
    # A CPU would make float16 of the demo's float32 checkpoint.
    flags = [*filled_in(words[3:]), "--dtype", "float32", "--max-total-tokens", "4096"]
    chat = {"model": "any", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
    with ServerProcess(flags, tmp_path / "server.log", env=run.env) as server:
        server.wait_until_ready()
        reply = server.client.ask("/v1/chat/completions", chat)
    assert reply["choices"][0]["message"]["content"]


def test_doctor_and_inspect(run):
    for words in commands():
        if words[:2] in (["domino-sglang", "doctor"], ["domino-sglang", "inspect"]):
            run(*filled_in(words))


def test_data_and_training(clone, run):
    for words in commands():
        if words[1] in ("data", "train"):
            run(*words)
    assert (clone / "run" / "checkpoint" / "config.json").is_file()


def test_every_command_is_run_above():
    run_here = {
        "git clone",
        "cd domino-sglang",
        "make demo",
        "pip install",
        "python -m",
        "domino-sglang doctor",
        "domino-sglang inspect",
    }
    run_here |= {"domino-sglang data", "domino-sglang train"}
    assert {" ".join(words[:2]) for words in commands()} == run_here

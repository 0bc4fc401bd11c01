"""Two ranks of one server: each holds half of the vocabulary, and together they draft and verify what one would."""

from __future__ import annotations

import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from domino_sglang.measure.server_process import ServerProcess
from tests.support.client import Client
from tests.support.drafters import write_drafter
from tests.support.targets import write_target

PROMPTS = [[5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64, 7, 33, 90]]
LENGTH = 20


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def two_ranks(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    cores = sorted(os.sched_getaffinity(0))
    flags = [
        *("--model-path", str(target), "--dtype", "float32", "--tp-size", "2", "--skip-tokenizer-init"),
        *("--max-total-tokens", "512", "--max-running-requests", "4"),
        *("--speculative-algorithm", "DOMINO"),
        *("--speculative-draft-model-path", str(write_drafter(folder / "drafter", target))),
    ]
    # SGLang wants a core for each rank, or as many NUMA nodes as ranks.
    env = {"HF_HUB_OFFLINE": "1", "SGLANG_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}"}
    with ServerProcess(flags, folder / "server.log", env=env) as server:
        server.wait_until_ready()
        yield Client(server.url, "tiny")


def test_greedy_tokens_are_the_targets(two_ranks, target):
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    for prompt in PROMPTS:
        reply = two_ranks.generate(prompt, {"max_new_tokens": LENGTH, "ignore_eos": True})
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=LENGTH, do_sample=False)
        assert reply["output_ids"] == whole[0, len(prompt) :].tolist()
        assert reply["meta_info"]["spec_verify_ct"] > 0


def test_ranks_draw_alike(two_ranks):
    # A rank that accepted other tokens than its neighbour would wait for it forever.
    seeded = {"max_new_tokens": LENGTH, "ignore_eos": True, "temperature": 1.0, "sampling_seed": 7}
    texts = [two_ranks.ids(prompt, seeded) for prompt in (*PROMPTS, *PROMPTS)]
    assert texts[:2] == texts[2:]

"""A lone request that needs the last slots of the KV pool: it is not given up before plain decoding would be."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support.memory_drafter import write_memory_drafter
from tests.support.targets import VOCAB, write_target

POOL, PROMPT, NEW = 320, 290, 28
CASES = {
    "overlap": [],
    "sync": ["--disable-overlap-schedule"],
    "pages": ["--page-size", "4"],
    "adaptive": ["--speculative-adaptive"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory, fork_server):
    """A target, a prompt with its greedy text, and a drafter that knows it: whole blocks are accepted to the end."""
    folder = tmp_path_factory.mktemp("models")
    target = write_target(folder / "target")
    prompt = torch.randint(3, VOCAB, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    asked = [(prompt, {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True})]
    argv = ["--model-path", str(target), "--max-total-tokens", str(POOL)]
    text = fork_server.ask("together", argv=argv, requests=asked)["value"]["outputs"][0]
    assert len(text) == NEW
    return target, write_memory_drafter(folder / "drafter", target, [[*prompt, *text]]), prompt, text


@pytest.mark.parametrize("case", CASES)
def test_the_whole_text_comes(fork_server, models, tmp_path, case):
    target, drafter, prompt, text = models
    argv = ["--model-path", str(target), "--max-total-tokens", str(POOL), *CASES[case]]
    argv += ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
    if case == "adaptive":
        table = tmp_path / "table.json"
        table.write_text(json.dumps({"1": {"candidate_steps": [2, 5]}}))
        argv += ["--speculative-adaptive-config", str(table)]
    # With pages SGLang itself ends a request sooner.
    length = 23 if case == "pages" else NEW
    greedy = {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True}
    answer = fork_server.ask("together", argv=argv, requests=[(prompt, greedy)])
    assert answer["value"]["outputs"] == [text[:length]]
    assert answer["value"]["modes"]["DECODE"] < NEW - 8, "blocks, while there is room for them"
    sampled = greedy | {"temperature": 1.0, "sampling_seed": 4}
    outputs = fork_server.ask("together", argv=argv, requests=[(prompt, sampled)])["value"]["outputs"]
    assert len(outputs[0]) == length

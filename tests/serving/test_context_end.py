"""A text that reaches the end of the context: the last blocks hang over it, and the text is plain decoding's still."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support.drafters import write_drafter
from tests.support.targets import VOCAB, write_target

CONTEXT = 512
LEFT = (12, 15)
# In the row next to one of the others', and still at its beginning when they end.
NEIGHBOUR = [7, 33, 90, 4, 8, 61, 9, 12]
ADAPTIVE = {"1": {"candidate_steps": [15]}, "2": {"candidate_steps": [0]}}
CASES = [("sync", 9), ("overlap", 16), ("overlap", 64), ("adaptive", 16)]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("models") / "target")


@pytest.fixture(scope="module")
def asked():
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, VOCAB, (CONTEXT - left,), generator=generator).tolist() for left in LEFT]
    prompts.insert(1, NEIGHBOUR)
    return [(prompt, {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}) for prompt in prompts]


@pytest.fixture(scope="module")
def plain(fork_server, target, asked):
    argv = ["--model-path", str(target), "--max-total-tokens", "2048"]
    outputs = fork_server.ask("together", argv=argv, requests=asked)["value"]["outputs"]
    assert all(len(outputs[i]) >= left - 2 for i, left in zip((0, 2), LEFT, strict=True))
    return outputs


@pytest.mark.parametrize(("scheduler", "block"), CASES)
def test_tokens_up_to_the_last_position(fork_server, target, asked, plain, tmp_path, scheduler, block):
    drafter = write_drafter(tmp_path / "drafter", target, block_size=block)
    argv = ["--model-path", str(target), "--max-total-tokens", "2048"]
    argv += ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
    if scheduler == "sync":
        argv += ["--disable-overlap-schedule"]
    if scheduler == "adaptive":
        table = tmp_path / "table.json"
        table.write_text(json.dumps(ADAPTIVE))
        argv += ["--speculative-adaptive", "--speculative-adaptive-config", str(table)]
    answer = fork_server.ask("together", argv=argv, requests=asked)
    assert "value" in answer, answer
    assert answer["value"]["outputs"] == plain

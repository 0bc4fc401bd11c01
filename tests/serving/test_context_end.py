"""A text that reaches the end of the context: the last blocks hang over it, and the text is plain decoding's still."""

from __future__ import annotations

import pytest
import torch

from tests.support.drafters import write_drafter
from tests.support.targets import VOCAB, write_target

CONTEXT = 512
LEFT = (12, 15)


@pytest.mark.parametrize("scheduler", ["overlap", "sync"])
def test_tokens_up_to_the_last_position(fork_server, tmp_path, scheduler):
    target = write_target(tmp_path / "target")
    drafter = write_drafter(tmp_path / "drafter", target)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, VOCAB, (CONTEXT - left,), generator=generator).tolist() for left in LEFT]
    domino = ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]

    def outputs(argv: list[str]) -> list[list[int]]:
        common = ["--model-path", str(target), "--max-total-tokens", "2048"]
        common += ["--disable-overlap-schedule"] if scheduler == "sync" else []
        asked = [(prompt, {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}) for prompt in prompts]
        return fork_server.ask("together", argv=[*common, *argv], requests=asked)["value"]["outputs"]

    plain = outputs([])
    assert all(len(said) >= left - 2 for said, left in zip(plain, LEFT, strict=True))
    assert outputs(domino) == plain

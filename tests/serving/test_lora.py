"""Targets with LoRA adapters: every request's text is that of the target with its own adapter's weights added."""

from __future__ import annotations

import pytest
import torch

from tests.support.drafters import write_drafter
from tests.support.targets import adapted, write_adapter, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64], [7, 33, 90, 4])
LENGTH = 24


@pytest.mark.parametrize("scheduler", ["overlap", "sync"])
def test_a_batch_of_adapters_and_none(fork_server, tmp_path, scheduler):
    target = write_target(tmp_path / "target")
    adapters = {name: write_adapter(tmp_path / name, target, seed=i) for i, name in enumerate(("first", "second"), 1)}
    asked = [*adapters, None]
    flags = ["--disable-overlap-schedule"] if scheduler == "sync" else []
    argv = [
        *("--model-path", str(target), "--enable-lora"),
        *("--lora-paths", *(f"{name}={folder}" for name, folder in adapters.items())),
        *("--speculative-algorithm", "DOMINO"),
        *("--speculative-draft-model-path", str(write_drafter(tmp_path / "drafter", target))),
        *flags,
    ]
    sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
    requests = [(prompt, sampling | ({"adapter": name} if name else {})) for prompt in PROMPTS for name in asked]
    outputs = fork_server.ask("together", argv=[*argv, "--max-total-tokens", "1024"], requests=requests)["value"][
        "outputs"
    ]

    expected = []
    models = [adapted(target, adapters.get(name)) for name in asked]
    for prompt in PROMPTS:
        for model in models:
            whole = model.generate(torch.tensor([prompt]), max_new_tokens=LENGTH, do_sample=False)
            expected.append(whole[0, len(prompt) :].tolist())
    assert outputs == expected
    # Adapters that change nothing would prove nothing.
    assert all(len({tuple(text) for text in expected[i : i + 3]}) == 3 for i in range(0, len(expected), 3))

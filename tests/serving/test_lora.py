"""Targets with LoRA adapters: every request's text is that of the target with its own adapter's weights added."""

from __future__ import annotations

import pytest

from tests.support.drafters import write_drafter
from tests.support.targets import adapted, continued, write_adapter, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64], [7, 33, 90, 4])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A target, two adapters of its, and a drafter."""
    folder = tmp_path_factory.mktemp("lora")
    target = write_target(folder / "target")
    adapters = {name: write_adapter(folder / name, target, seed=i) for i, name in enumerate(("first", "second"), 1)}
    return target, adapters, write_drafter(folder / "drafter", target)


def serve(server, models, prompts, length, *flags, **how):
    """The reply, and the texts of Transformers: for every prompt, with each adapter and without."""
    target, adapters, drafter = models
    asked = [*adapters, None]
    argv = [
        *("--model-path", str(target), "--max-total-tokens", "1024", "--enable-lora"),
        *("--lora-paths", *(f"{name}={folder}" for name, folder in adapters.items())),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
        *flags,
    ]
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    requests = [(prompt, sampling | ({"adapter": name} if name else {})) for prompt in prompts for name in asked]
    reply = server.ask("together", argv=argv, requests=requests, **how)["value"]

    oracles = [adapted(target, adapters.get(name)) for name in asked]
    expected = []
    for prompt in prompts:
        expected += [continued(model, prompt, length)[len(prompt) :] for model in oracles]
    # Adapters that change nothing would prove nothing.
    assert all(len({tuple(text) for text in expected[i : i + 3]}) == 3 for i in range(0, len(expected), 3))
    return reply, expected


@pytest.mark.parametrize("flags", [[], ["--disable-overlap-schedule"]], ids=["overlap", "sync"])
def test_a_batch_of_adapters_and_none(fork_server, models, flags):
    reply, expected = serve(fork_server, models, PROMPTS, 24, *flags)
    assert reply["outputs"] == expected


def test_sglangs_kernels_in_recorded_graphs(interpreting_server, models):
    flags = ["--cuda-graph-bs-decode", "4"]
    reply, expected = serve(interpreting_server, models, PROMPTS[:1], 6, *flags, as_on_a_gpu=True)
    assert reply["outputs"] == expected
    steps = reply["modes"]["DECODE"]
    assert reply["replays"] == {"drafter": steps, "target": steps}

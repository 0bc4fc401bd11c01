"""Targets with recurrent layers: of a block's states the one behind the last accepted token is kept.

SGLang's own kernels verify, in Triton's interpreter, for Qwen3.5 in a recorded graph too; the oracle is Transformers.
"""

from __future__ import annotations

import pytest
import torch

from tests.support.drafters import write_drafter
from tests.support.memory_drafter import BLOCK, write_memory_drafter
from tests.support.targets import VOCAB, adapted, continued, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64], [7, 33, 90, 4])
LATER = [*PROMPTS[1], 20, 6]  # comes when the others have their texts
LENGTH = 16
WRONG_EVERY = 7


@pytest.fixture(scope="module", params=["lfm2", "qwen3.5"])
def models(request, tmp_path_factory):
    """A target, its texts, and a drafter that has learned them with a mistake here and there."""
    folder = tmp_path_factory.mktemp(request.param)
    target = write_target(folder / "target", request.param)
    model = adapted(target, None)
    prompts = [*PROMPTS, LATER]
    texts = [continued(model, prompt, LENGTH) for prompt in prompts]
    learned = [[(t + (i % WRONG_EVERY == 0)) % VOCAB for i, t in enumerate(text)] for text in texts]
    drafter = write_memory_drafter(folder / "drafter", target, learned)
    return request.param, target, drafter, [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def serve(server, target, drafter, *flags, length=LENGTH, later=(), **how):
    argv = [
        *("--model-path", str(target), "--cuda-graph-bs-decode", "4", *flags),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
    ]
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    requests = [(prompt, sampling) for prompt in PROMPTS] + [(prompt, sampling | {"arrives": 30}) for prompt in later]
    answer = server.ask("together", argv=argv, requests=requests, **how)
    assert "value" in answer, answer
    return answer["value"]


def test_texts_are_the_targets(interpreting_server, models):
    kind, target, drafter, expected = models
    # SGLang refuses LFM2 with Triton's attention, which the recorded graphs need.
    graphs = kind == "qwen3.5"
    reply = serve(interpreting_server, target, drafter, "--disable-radix-cache", as_on_a_gpu=graphs)
    assert reply["outputs"] == expected[: len(PROMPTS)]
    steps = reply["modes"]["DECODE"]
    assert reply["replays"] == ({"drafter": steps, "target": steps} if graphs else {})
    # Neither alone the bonus token of every block, nor always the whole of it.
    assert LENGTH / BLOCK + 1 < steps < LENGTH - 3


def test_states_come_from_the_prefix_cache_and_after_retraction(interpreting_server, models):
    _, target, drafter, expected = models
    flags = ["--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"]
    length = LENGTH // 2
    reply = serve(interpreting_server, target, drafter, *flags, length=length, later=[LATER], retract_every=3)
    assert reply["outputs"] == [text[:length] for text in expected]
    assert any(reply["retractions"])
    assert reply["cached"][-1] == len(PROMPTS[1]), "the state behind the prompt that both have"


def test_states_within_a_text_are_cached(interpreting_server, tmp_path):
    """SGLang keeps a state every so many tokens; here a block's acceptance crosses the place."""
    target, every, length = write_target(tmp_path / "target", "qwen3.5"), 64, 8
    prompt = torch.randint(3, VOCAB, (every - 4,), generator=torch.Generator().manual_seed(0)).tolist()
    text = continued(adapted(target, None), prompt, 2 * length)
    drafter = write_memory_drafter(tmp_path / "drafter", target, [text])
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    argv = [
        *("--model-path", str(target), "--mamba-track-interval", str(every), "--cuda-graph-bs-decode", "1"),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
    ]
    again = text[: len(prompt) + length - 1]
    requests = [(prompt, sampling), (again, sampling | {"arrives": 20})]
    reply = interpreting_server.ask("together", argv=argv, requests=requests, as_on_a_gpu=True)["value"]
    assert reply["outputs"] == [text[len(given) :][:length] for given in (prompt, again)]
    assert reply["cached"] == [0, every]
    assert reply["modes"]["DECODE"] < 2 * (length - 1), "blocks were accepted in part or whole"


def test_without_their_kernels_they_are_refused(fork_server, tmp_path):
    target = write_target(tmp_path / "target", "lfm2")
    argv = ["--model-path", str(target), "--speculative-algorithm", "DOMINO", "--speculative-draft-model-path"]
    answer = fork_server.ask("resolve", argv=[*argv, str(write_drafter(tmp_path / "drafter", target))])
    assert answer["error"] == "Refusal"
    assert "a lfm2 with recurrent layers" in answer["message"] and "serve it on a GPU" in answer["message"]

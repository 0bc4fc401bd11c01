"""A scheduler that takes the GPU's paths: Triton kernels, ours and SGLang's, in Triton's interpreter, FlashInfer and
FlashAttention except their compiled kernels, and draft and verify graphs recorded and replayed by SGLang's runner.

The oracle is the same scheduler with the PyTorch head and the CPU's attention: for the same random numbers both say the
same.
"""

from __future__ import annotations

import json

import pytest

from tests.support.memory_drafter import write_memory_drafter
from tests.support.targets import write_target

LENGTH = 14
PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64], [7, 33, 90, 4], [11, 62, 7, 7, 45])
# One of each distribution in a batch; seeds make the sampled ones repeat.
DISTRIBUTIONS = (
    {"temperature": 0},
    {"temperature": 1.0, "sampling_seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "sampling_seed": 2, "frequency_penalty": 0.5},
    {"temperature": 1.3, "top_k": 12, "min_p": 0.02, "sampling_seed": 3},
)
REQUESTS = [
    (prompt, distribution | {"max_new_tokens": LENGTH - 2 * i, "ignore_eos": True})
    for i, (prompt, distribution) in enumerate(zip(PROMPTS, DISTRIBUTIONS, strict=True))
]
FLAGS = {
    "sync, block verification, draft window": [
        *("--disable-overlap-schedule", "--speculative-use-block-verification"),
        *("--speculative-draft-window-size", "10"),
    ],
    "overlap, adaptive": ["--speculative-adaptive"],
    "overlap": [],
    "sync, draft window, prompts in pieces": [
        *("--disable-overlap-schedule", "--speculative-draft-window-size", "10", "--chunked-prefill-size", "8"),
    ],
}
# Target's and drafter's; Triton's are the default here.
ATTENTION = {
    "FlashAttention 3": [
        *("--attention-backend", "fa3", "--speculative-draft-attention-backend", "fa3", "--page-size", "16"),
    ],
    "FlashInfer": ["--attention-backend", "flashinfer", "--speculative-draft-attention-backend", "flashinfer"],
    "FlashInfer and FlashAttention 4": [
        *("--attention-backend", "flashinfer", "--speculative-draft-attention-backend", "fa4"),
    ],
    "Triton": [],
}
CASES = [
    ("sync, block verification, draft window", "Triton"),
    ("overlap, adaptive", "Triton"),
    ("overlap", "FlashAttention 3"),
    ("sync, draft window, prompts in pieces", "FlashInfer"),
    ("overlap, adaptive", "FlashInfer and FlashAttention 4"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory, fork_server):
    """A target, and a drafter that continues its greedy texts."""
    folder = tmp_path_factory.mktemp("models")
    target = write_target(folder / "target")
    sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
    plain = fork_server.ask(
        "together", argv=["--model-path", str(target)], requests=[(prompt, sampling) for prompt in PROMPTS]
    )["value"]["outputs"]
    texts = [[*prompt, *text] for prompt, text in zip(PROMPTS, plain, strict=True)]
    return target, write_memory_drafter(folder / "drafter", target, texts)


@pytest.mark.parametrize(("case", "attention"), CASES)
def test_the_kernels_say_what_pytorch_says(fork_server, interpreting_server, models, tmp_path, case, attention):
    target, drafter = models
    argv = [
        *("--model-path", str(target), "--random-seed", "1"),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
        *FLAGS[case],
    ]
    if "adaptive" in case:
        table = tmp_path / "table.json"
        table.write_text(json.dumps({"1": {"candidate_steps": [7]}, "2": {"candidate_steps": [3]}}))
        argv += ["--speculative-adaptive-config", str(table)]
    said_before = len(interpreting_server.log.read_text())
    answers = [
        fork_server.ask("together", argv=argv, requests=REQUESTS),
        interpreting_server.ask(
            "together",
            argv=[*argv, *ATTENTION[attention], "--cuda-graph-bs-decode", "4"],
            requests=REQUESTS,
            as_on_a_gpu=True,
        ),
    ]
    assert all("value" in answer for answer in answers), answers
    by_pytorch, by_kernels = (answer["value"] for answer in answers)
    assert by_kernels["outputs"] == by_pytorch["outputs"]
    assert by_kernels["modes"] == by_pytorch["modes"], "as many steps"
    steps = by_kernels["modes"]["DECODE"]
    assert by_kernels["replays"] == {"drafter": steps, "target": steps}, "none of them eager"
    said = interpreting_server.log.read_text()[said_before:]
    assert "the head runs in Triton" in said and "fused KV materialization enabled" in said
    assert "failed; falling back" not in said

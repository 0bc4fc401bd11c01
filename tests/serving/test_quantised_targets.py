"""Targets with quantised linear layers: what is verified and what is drafted from is what such a target computes.

SGLang's int8 kernels run in Triton's interpreter; the oracle is plain decoding of the same target, greedy.
"""

from __future__ import annotations

from tests.support.memory_drafter import write_memory_drafter
from tests.support.targets import adapted, continued, write_quantised_target, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [7, 33, 90, 4])
LENGTH = 6


def test_texts_are_those_of_plain_decoding(interpreting_server, tmp_path):
    full = write_target(tmp_path / "full", "qwen3")
    target = write_quantised_target(tmp_path / "target", full)
    sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}

    def serve(*flags):
        argv = ["--model-path", str(target), "--cuda-graph-bs-decode", "2", *flags]
        requests = [(prompt, sampling) for prompt in PROMPTS]
        return interpreting_server.ask("together", argv=argv, requests=requests, as_on_a_gpu=True)["value"]

    expected = serve()["outputs"]
    texts = [[*prompt, *text] for prompt, text in zip(PROMPTS, expected, strict=True)]
    drafter = write_memory_drafter(tmp_path / "drafter", target, texts)
    drafted = serve("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter))
    assert drafted["outputs"] == expected
    assert drafted["modes"]["DECODE"] < LENGTH - 1, "proposals were accepted"
    in_full = adapted(full, None)
    assert texts != [continued(in_full, prompt, LENGTH) for prompt in PROMPTS], "int8 can be told from float32"

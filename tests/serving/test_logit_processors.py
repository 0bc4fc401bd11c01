"""Custom logit processors: what is said is what plain decoding says, whatever the drafter proposes before a position.

A tiny target in the test's own scheduler, and a drafter that knows by heart what the target says with its processors
and without: so blocks are accepted, and tokens that a processor forbids are drafted.
"""

from __future__ import annotations

import json
from types import FunctionType

import dill
import pytest
from sglang.srt.sampling.custom_logit_processor import (
    CustomLogitProcessor,
    DeepseekOCRNoRepeatNGramLogitProcessor,
    Qwen3ThinkingBudgetLogitProcessor,
)

from tests.support.memory_drafter import write_memory_drafter
from tests.support.targets import write_target

PROMPTS = [
    [11, 62, 7, 7, 45, 20, 33, 84],
    [3, 3, 70, 88, 12, 51, 29],
    [5, 17, 42, 8, 61, 9],
    [90, 4, 4, 31],
    [14, 15, 92, 65, 35],
]
END, NEW_LINE = 2, 13


class Favour(CustomLogitProcessor):
    """Reads its parameters alone."""

    def __call__(self, logits, custom_param_list=None):
        for row, parameters in enumerate(custom_param_list):
            logits[row, parameters["tokens"]] += 6
        return logits


class Budget(Qwen3ThinkingBudgetLogitProcessor):
    """Thinking begins with the last token of a prompt."""

    THINKING_START_TOKEN_ID, THINKING_END_TOKEN_ID, NEW_LINE_TOKEN_ID = 9, END, NEW_LINE


def sent(processor: type[CustomLogitProcessor]) -> str:
    # As from a user's script, by value: a server cannot import this module.
    processor.__module__ = "__main__"
    for own in vars(processor).values():
        if isinstance(own, FunctionType):
            own.__module__ = "__main__"
    return json.dumps({"callable": dill.dumps(processor, recurse=True).hex()})


NO_REPEAT = {
    "processor": DeepseekOCRNoRepeatNGramLogitProcessor.to_str(),
    "custom_params": {"ngram_size": 2, "window_size": 200},
}
FAVOUR = {"processor": sent(Favour), "custom_params": {"tokens": [28, 30, 84]}}
PROCESSED = [
    NO_REPEAT,
    FAVOUR | {"repetition_penalty": 1.6},
    {"processor": sent(Budget), "custom_params": {"thinking_budget": 7}},
    FAVOUR | {"logit_bias": {"28": 3.0, "30": -100.0}},
    {},
]
BASE = {"temperature": 0, "ignore_eos": True, "max_new_tokens": 32}
REQUESTS = [[prompt, BASE | own] for prompt, own in zip(PROMPTS, PROCESSED, strict=True)]


@pytest.fixture(scope="module")
def ask(fork_server):
    def together(target, requests, *flags: str, drafter=None, **arguments):
        argv = ["--model-path", str(target), "--enable-custom-logit-processor", *flags]
        if drafter is not None:
            argv += ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
        answer = fork_server.ask("together", argv=argv, requests=requests, **arguments)
        assert "value" in answer, answer
        return answer["value"]

    return together


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("models") / "target")


@pytest.fixture(scope="module")
def plain(ask, target):
    """Plain decoding's outputs with the processors, and without."""
    unprocessed = [[prompt, BASE] for prompt in PROMPTS]
    outputs = ask(target, REQUESTS + unprocessed, "--disable-overlap-schedule")["outputs"]
    return outputs[: len(PROMPTS)], outputs[len(PROMPTS) :]


@pytest.fixture(scope="module")
def drafter(target, plain, tmp_path_factory):
    known = [prompt[-1:] + said for outputs in plain for prompt, said in zip(PROMPTS, outputs, strict=True)]
    return write_memory_drafter(tmp_path_factory.mktemp("models") / "drafter", target, known)


def test_the_processors_change_what_is_said(plain):
    processed, unprocessed = plain
    assert [ours != theirs for ours, theirs in zip(processed, unprocessed, strict=True)] == [True] * 4 + [False]
    assert processed[2][7:9] == [NEW_LINE, END] or processed[2][6:8] == [NEW_LINE, END]


@pytest.mark.parametrize("flags", [[], ["--disable-overlap-schedule"]], ids=["overlap", "sync"])
@pytest.mark.parametrize("case", ["together", "retracted", "mixed"])
def test_tokens_equal_plain_decoding(ask, target, drafter, plain, flags, case):
    requests, arguments = REQUESTS, {}
    if case == "retracted":
        arguments = {"retract_every": 4}
    if case == "mixed":
        # Later prompts come in while the first requests decode, longer than the prefill chunk.
        flags = [*flags, "--enable-mixed-chunk", "--chunked-prefill-size", "4"]
        requests = [[prompt, own | {"arrives": 3 * i}] for i, (prompt, own) in enumerate(REQUESTS)]
    reply = ask(target, requests, *flags, drafter=drafter, **arguments)
    assert reply["outputs"] == plain[0]
    assert ("MIXED" in reply["modes"]) == (case == "mixed")
    if case == "together":
        # Blocks were accepted: otherwise no position would have a drafted past.
        assert reply["modes"]["DECODE"] < BASE["max_new_tokens"] - 4

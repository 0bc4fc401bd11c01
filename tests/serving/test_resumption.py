"""Requests that stop and go on, retracted or decoded inside a mixed batch: their past must not be forgotten.

A tiny target with random weights, in the test's own scheduler: there a retraction comes as often as it is asked for.
"""

from __future__ import annotations

import pytest

from tests.support.drafters import write_drafter
from tests.support.targets import write_target

# SGLang retracts the request that has said least, and the longest of those: each of these in turn, as the one before it
# has come to its end.
REQUESTS = [
    ([11, 62, 7, 7, 45, 20, 33, 84], {"frequency_penalty": 0.9, "max_new_tokens": 8}),
    ([3, 3, 70, 88, 12, 51, 29], {"repetition_penalty": 1.3, "max_new_tokens": 16}),
    ([5, 17, 42, 8, 61, 9], {"presence_penalty": 0.8, "max_new_tokens": 28}),
    ([90, 4, 4, 31], {"frequency_penalty": -0.4, "max_new_tokens": 60}),
]
SCHEDULERS = {"overlap": [], "sync": ["--disable-overlap-schedule"]}
BASE = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    target = write_target(folder / "target")
    return str(target), str(write_drafter(folder / "drafter", target))


@pytest.fixture(scope="module")
def ask(fork_server, models):
    """Ask a scheduler of its own, with DOMINO or without."""

    def together(requests, *flags: str, domino: bool, **arguments):
        target, drafter = models
        argv = ["--model-path", target, *flags]
        if domino:
            argv += ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", drafter]
        answer = fork_server.ask("together", argv=argv, requests=requests, **arguments)
        assert "value" in answer, answer
        return answer["value"]

    return together


@pytest.fixture(scope="module")
def plain(ask):
    """Plain decoding, never interrupted."""

    def outputs(requests):
        reply = ask(requests, "--disable-overlap-schedule", domino=False)
        assert not any(reply["retractions"])
        return reply["outputs"]

    return outputs


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("every", [3, 4])
def test_retracted_requests_keep_their_penalties(ask, plain, scheduler, every):
    requests = [[prompt, BASE | sampling] for prompt, sampling in REQUESTS]
    reply = ask(requests, *SCHEDULERS[scheduler], domino=True, retract_every=every)
    assert all(reply["retractions"][:3]), reply["retractions"]
    assert reply["outputs"] == plain(requests)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_requests_in_mixed_batches_keep_their_penalties(ask, plain, scheduler):
    # New prompts, longer than the prefill chunk, come while the first request decodes.
    long = [(7 * i * i + 3 * i) % 97 for i in range(40)]
    requests = [
        [prompt + (long if i else []), BASE | sampling | {"max_new_tokens": 40, "arrives": 4 * i}]
        for i, (prompt, sampling) in enumerate(REQUESTS)
    ]
    flags = ("--enable-mixed-chunk", "--chunked-prefill-size", "16", *SCHEDULERS[scheduler])
    reply = ask(requests, *flags, domino=True)
    assert "MIXED" in reply["modes"]
    assert reply["outputs"] == plain(requests)

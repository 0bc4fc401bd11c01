"""PD disaggregation: one server reads the prompts, another drafts and verifies with the KV cache it was sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from domino_sglang.measure.server_process import ServerProcess, free_port
from tests.support.client import Client
from tests.support.overfitting import write_knowing_drafter
from tests.support.targets import adapted, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64, 7, 33, 90])
LENGTH = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A target, and a drafter that knows its texts: without the keys and values of the context it drafts others."""
    folder = tmp_path_factory.mktemp("models")
    target = write_target(folder / "target")
    return target, write_knowing_drafter(folder / "drafter", adapted(target, None), PROMPTS, LENGTH)


@pytest.fixture(scope="module")
def pair(models, tmp_path_factory):
    """Prefill and decode server, and the port where they meet."""
    target, drafter = models
    folder, meeting = tmp_path_factory.mktemp("pair"), free_port()
    common = [
        *("--model-path", str(target), "--dtype", "float32", "--skip-tokenizer-init"),
        # A decode server keeps room for 512 tokens more of every request.
        *("--max-total-tokens", "4096", "--max-running-requests", "4"),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
        *("--disaggregation-transfer-backend", "mooncake", "--disaggregation-bootstrap-port", str(meeting)),
    ]
    env = {"HF_HUB_OFFLINE": "1", "MOONCAKE_PROTOCOL": "tcp"}
    with ExitStack() as stack:
        modes = ("prefill", "decode")
        servers = [
            stack.enter_context(
                ServerProcess([*common, "--disaggregation-mode", mode], folder / f"{mode}.log", env=env)
            )
            for mode in modes
        ]
        yield [Client(server.wait_until_ready().url, "tiny") for server in servers], meeting


def test_what_was_sent_is_what_the_drafter_needs(pair, models, fork_server, tmp_path):
    (prefill, decode), meeting = pair
    target, drafter = models
    sampling = {"max_new_tokens": LENGTH, "ignore_eos": True}

    def ask(number: int) -> dict:
        where = {"bootstrap_host": "127.0.0.1", "bootstrap_port": meeting, "bootstrap_room": 1 + number}
        with ThreadPoolExecutor(1) as other:
            first = other.submit(prefill.generate, PROMPTS[number], sampling, **where)
            answer = decode.generate(PROMPTS[number], sampling, **where)
            assert first.result()["output_ids"] == answer["output_ids"][:1]
        return answer

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(ask, range(len(PROMPTS))))

    argv = ["--model-path", str(target), "--speculative-algorithm", "DOMINO"]
    argv += ["--speculative-draft-model-path", str(drafter)]
    alone = fork_server.ask(
        "generate", argv=argv, prompts=PROMPTS, max_new_tokens=LENGTH, out=str(tmp_path / "alone.pt")
    )
    assert "value" in alone, alone
    model = adapted(target, None)
    for prompt, answer, whole in zip(PROMPTS, answers, torch.load(tmp_path / "alone.pt"), strict=True):
        plain = model.generate(torch.tensor([prompt]), max_new_tokens=LENGTH, do_sample=False)
        assert answer["output_ids"] == plain[0, len(prompt) :].tolist()
        # As few steps as on one server: the drafter's own keys and values came along.
        assert answer["meta_info"]["spec_verify_ct"] == len(whole["blocks"]) < LENGTH / 2

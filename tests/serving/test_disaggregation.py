"""PD disaggregation: one server reads the prompts, another drafts and verifies with the KV cache it was sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests
import torch

from domino_sglang.measure.client import TIMEOUT_S
from domino_sglang.measure.server_process import ServerProcess, free_port
from tests.support.client import Client
from tests.support.overfitting import write_knowing_drafter
from tests.support.targets import adapted, continued, write_target

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


class Asking:
    """Both servers of the pair, asked for one answer together, as SGLang's router does."""

    def __init__(self, pair):
        (self.prefill, self.decode), self.meeting = pair

    def __call__(self, number: int, room: int) -> dict:
        with ThreadPoolExecutor(1) as other:
            body = {"sampling": {"max_new_tokens": LENGTH, "ignore_eos": True}} | self.where(room)
            first = other.submit(self.prefill.generate, PROMPTS[number], **body)
            answer = self.decode.generate(PROMPTS[number], **body)
            assert first.result()["output_ids"] == answer["output_ids"][:1]
        return answer

    def where(self, room: int) -> dict:
        return {"bootstrap_host": "127.0.0.1", "bootstrap_port": self.meeting, "bootstrap_room": room}

    def all(self, first_room: int) -> list[dict]:
        """Every prompt at once."""
        numbers = range(len(PROMPTS))
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            return list(pool.map(self, numbers, [first_room + number for number in numbers]))


@pytest.fixture(scope="module")
def ask(pair):
    return Asking(pair)


def test_what_was_sent_is_what_the_drafter_needs(ask, models, fork_server, tmp_path):
    target, drafter = models
    # The second time, the prefill server has the prompts in its prefix cache.
    answers = [*ask.all(1), *ask.all(11)]
    argv = ["--model-path", str(target), "--speculative-algorithm", "DOMINO"]
    argv += ["--speculative-draft-model-path", str(drafter)]
    alone = fork_server.ask(
        "generate", argv=argv, prompts=PROMPTS, max_new_tokens=LENGTH, out=str(tmp_path / "alone.pt")
    )
    assert "value" in alone, alone
    model = adapted(target, None)
    whole = torch.load(tmp_path / "alone.pt") * 2
    for prompt, answer, expected in zip(PROMPTS * 2, answers, whole, strict=True):
        assert answer["output_ids"] == continued(model, prompt, LENGTH)[len(prompt) :]
        # As few steps as on one server: the drafter's own keys and values came along.
        assert answer["meta_info"]["spec_verify_ct"] == len(expected["blocks"]) < LENGTH / 2


@pytest.mark.parametrize("aborting", [("decode",), ("prefill",), ("prefill", "decode"), ()], ids=" and ".join)
def test_what_is_cut_short_leaves_nothing_behind(ask, models, aborting):
    # Nobody aborting: the client leaves.
    room = 100 + 10 * len(aborting) + len("".join(aborting))
    rid, servers = f"cut-{room}", {"prefill": ask.prefill, "decode": ask.decode}
    body = {"input_ids": PROMPTS[0], "sampling_params": {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}}
    body |= {"rid": rid, "stream": True} | ask.where(room)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(ask.prefill.post, "/generate", body)
        with requests.post(ask.decode.url + "/generate", json=body, stream=True, timeout=TIMEOUT_S) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith(b"data:")
            for name in aborting:
                servers[name].post("/abort_request", {"rid": rid})
            if "decode" in aborting:
                assert "abort" in b"".join(lines).decode()
        first.result()
    for server in servers.values():
        assert wait_until(lambda server=server: not unfinished(server)), server.get("/v1/loads").text
    target, _ = models
    model = adapted(target, None)
    for prompt, answer in zip(PROMPTS, ask.all(room + 1000), strict=True):
        assert answer["output_ids"] == continued(model, prompt, LENGTH)[len(prompt) :]


def unfinished(server: Client) -> int:
    """Requests that run or wait."""
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in server.get("/v1/loads").json()["loads"])


def wait_until(holds: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True

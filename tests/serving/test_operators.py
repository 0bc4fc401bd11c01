"""What an operator sees: SGLang's acceptance numbers, our counters by position, the start-up line."""

from __future__ import annotations

import re

import pytest

from tests.prompts import chat


def proposals(client) -> int:
    return client.server_info()["speculative_num_draft_tokens"] - 1


def counters(client) -> dict[str, float]:
    found = {"steps": client.metric("domino:verify_steps_total")}
    for j in range(1, proposals(client) + 1):
        found[str(j)] = client.metric("domino:accepted_proposals_total", position=str(j))
    return found


def test_counters_agree_with_the_reply(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    before = counters(each_domino)
    meta = each_domino.generate(prompt, {"max_new_tokens": 24, "ignore_eos": True})["meta_info"]
    after = counters(each_domino)
    new = {name: after[name] - before[name] for name in after}
    assert new["steps"] == meta["spec_verify_ct"]
    accepted = [new[str(j)] for j in range(1, proposals(each_domino) + 1)]
    assert accepted == sorted(accepted, reverse=True)
    # The prefill gives the first token; the last step may commit more than the answer may hold.
    committed = 1 + new["steps"] + sum(accepted)
    assert 24 <= committed <= 24 + proposals(each_domino)


def test_sglang_reports_the_acceptance_length(each_domino):
    each_domino.flush_cache()  # which starts SGLang's averages anew
    before = counters(each_domino)
    # A text nobody knows by heart: more steps than SGLang lets pass between two averages.
    meta = each_domino.generate("7 31 5 12 99 4", {"max_new_tokens": 80, "ignore_eos": True})["meta_info"]
    new = {name: count - before[name] for name, count in counters(each_domino).items()}
    assert meta["spec_accept_length"] == pytest.approx(meta["completion_tokens"] / meta["spec_verify_ct"])
    steps, block = new.pop("steps"), 1 + proposals(each_domino)
    committed = steps + sum(new.values())
    # SGLang averages at every fourth step: up to three of the last are not in it.
    average = each_domino.server_info()["internal_states"][0]["avg_spec_accept_length"]
    unseen = 3
    assert (committed - unseen * block) / (steps - unseen) <= average <= (committed - unseen) / (steps - unseen)
    # The gauges speak of four steps alone.
    length, rate = (each_domino.metric(f"sglang:spec_accept_{name}") for name in ("length", "rate"))
    assert 1 <= length <= block
    assert rate == pytest.approx((length - 1) / (block - 1))


def test_the_server_says_what_it_runs(each_domino):
    info = each_domino.server_info()
    assert info["speculative_algorithm"] == "DOMINO"
    assert info["speculative_num_draft_tokens"] > 1
    assert info["speculative_num_steps"] == info["speculative_eagle_topk"] == 1


@pytest.mark.parametrize("server", ["domino", "sync"])
def test_start_up_line(servers, server):
    servers[server].wait_until_ready()
    log = servers[server].log.read_text()
    lines = [line for line in log.splitlines() if "the head runs in" in line]
    assert len(lines) == 1
    assert re.search(
        r"DOMINO drafts \d+ tokens a step: the head runs in (PyTorch|Triton), float32, with [\d.]+ MB", lines[0]
    )
    assert "Traceback" not in log

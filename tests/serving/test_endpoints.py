"""Endpoints beside chat, completions and ``/generate``: responses, scores, and sessions with their forks."""

from __future__ import annotations

from typing import Any

import pytest

QUESTION = "What is the capital of Norway?"
COUNT = "1 2 3 4 5 6 7 8 9 " * 4 + "1 2"


def answered(client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = client.post(path, {"model": client.model} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("more", [{}, {"instructions": "Answer like a pirate."}], ids=["alone", "instructions"])
def test_responses(each_domino, ar, more):
    body = {"input": QUESTION, "temperature": 0, "max_output_tokens": 24} | more
    ours, plain = (answered(client, "/v1/responses", body) for client in (each_domino, ar))
    texts = [[part["text"] for item in reply["output"] for part in item["content"]] for reply in (ours, plain)]
    assert texts[0] == texts[1] and texts[0][0]
    for count in ("input_tokens", "output_tokens"):
        assert ours["usage"][count] == plain["usage"][count]


# No token is decoded, and the prefill's log probabilities are asked of the target alone.
@pytest.mark.parametrize("apply_softmax", [False, True])
def test_scores(each_domino, ar, apply_softmax):
    body = {"query": "Is the sky blue? ", "items": ["Yes", "No"], "label_token_ids": [1, 260, 3000]}
    ours, plain = (
        answered(client, "/v1/score", body | {"apply_softmax": apply_softmax})["scores"] for client in (each_domino, ar)
    )
    assert len(ours) == 2
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    "stop", [{"stop": ["7 8"]}, {"stop": [" 5"], "no_stop_trim": True}, {"max_new_tokens": 5}, {}], ids=str
)
def test_what_a_session_remembers(each_domino, ar, stop):
    # A block that goes on past the end of an answer may leave nothing in the turns that follow, or in their forks.
    ours, plain = (conversation(client, stop) for client in (each_domino, ar))
    assert ours == plain
    assert len({turn["text"] for turn in ours}) > 1


def conversation(client, stop: dict[str, Any]) -> list[dict[str, Any]]:
    opened = client.post("/open_session", {"capacity_of_str_len": 1000})
    assert opened.status_code == 200, opened.text
    session = opened.json()
    turns: list[dict[str, Any]] = []

    def ask(prompt: str, after: int | None = None, **where: Any) -> None:
        if after is not None:
            where["rid"] = turns[after]["id"]
        reply = client.generate(prompt, {"max_new_tokens": 24} | stop, session_params={"id": session} | where)
        meta = reply["meta_info"]
        turns.append({"id": meta["id"], "text": reply["text"], "prompt_tokens": meta["prompt_tokens"]})

    ask(COUNT)
    ask(" and then", after=0)
    ask(" 1 2 3", after=0)
    ask(" 4 5", after=1, offset=12)
    ask(" 6 7", after=2, drop_previous_output=True)
    closed = client.post("/close_session", {"session_id": session})
    assert closed.status_code == 200, closed.text
    return [{name: turn[name] for name in ("text", "prompt_tokens")} for turn in turns]

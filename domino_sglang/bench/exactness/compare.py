"""Two sets of answers to the same prompts, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domino_sglang.bench.common.arms import DOMINO, PLAIN
from domino_sglang.bench.exactness.rows import Difference
from domino_sglang.measure.client import Client


def compare(
    prompts: Mapping[str, list[int]],
    plain: Sequence[list[int]],
    domino: Sequence[list[int]],
    *,
    plain_client: Client,
    domino_client: Client,
) -> list[Difference]:
    """Differences between two passes over the same prompts (name -> token ids); both servers are asked about each."""
    found = []
    for (name, prompt), expected, got in zip(prompts.items(), plain, domino, strict=True):
        if expected == got:
            continue
        shared = next(
            (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
        )
        tokens = [ids[shared] if shared < len(ids) else None for ids in (expected, got)]
        gaps = {}
        if None not in tokens:
            prefix = prompt + expected[:shared]
            gaps = {arm: _gap(c, prefix, tokens) for arm, c in ((PLAIN, plain_client), (DOMINO, domino_client))}
        found.append(Difference(name, shared, tokens[0], tokens[1], gaps))
    return found


def _gap(client: Client, prefix: list[int], tokens: Sequence[int | None]) -> float:
    reply = client.generate(prefix, {"max_new_tokens": 1}, return_logprob=True, token_ids_logprob=tokens)
    logprob = {entry[1]: entry[0] for entry in reply["meta_info"]["output_token_ids_logprobs"][0]}
    return logprob[tokens[0]] - logprob[tokens[1]]

"""Custom logit processors where a step has many positions: each sees the request as it would stand there.

Plain decoding calls a processor once a token, after everything else that changes logits, and hands it the request under
``__req__``. In a block every position has its own past: the request's output, and the tokens drafted before it.
"""

from __future__ import annotations

import copy
import dataclasses
from array import array
from collections.abc import Sequence
from typing import Any

import torch

from domino_sglang.core.devices import to_device


def apply_processors(
    logits: torch.Tensor, info: Any, owners: Sequence[int], reqs: Sequence[Any], written: Sequence[array]
) -> None:
    """Let the batch's processors change logits in place.

    Args:
        logits: ``[R, V]``.
        info: SGLang's ``SamplingBatchInfo`` of the batch.
        owners: for each of the R rows, the request it belongs to.
        reqs: SGLang's requests, in batch order.
        written: for each of the R rows, all the output before it, prompt excluded.

    Source: ``sglang.srt.layers.sampler.apply_custom_logit_processor``.
    """
    for entry in info.custom_logit_processor.values():
        concerned = set(entry.rows)
        rows = [row for row, owner in enumerate(owners) if owner in concerned]
        parameters = [parameters_at(reqs[owners[row]], info.custom_params[owners[row]], written[row]) for row in rows]
        index = to_device(rows, torch.int64, logits.device)
        logits[index] = entry.processor(logits[index], parameters).to(logits.dtype)


def parameters_at(req: Any, parameters: dict[str, Any] | None, written: array) -> dict[str, Any] | None:
    """A request's ``custom_params``, its ``__req__`` the request as it stands with exactly this output."""
    if not parameters or "__req__" not in parameters:
        return parameters
    view = copy.copy(req)
    view.output_ids = written
    return parameters | {"__req__": view}


class LogitProcessors:
    """The processors of the requests being decoded, and what those requests have written.

    The device is a step ahead of the host's record, so what the last step committed is kept here.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def commit(self, reqs: Sequence[Any], tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Keep the first ``lengths[b]`` of ``tokens[b]``, int64 ``[B]`` and ``[B, N]``: what a step has added."""
        self._last = {
            req.rid: (tokens[i].clone(), lengths[i].clone())
            for i, req in enumerate(reqs)
            if req.custom_logit_processor is not None
        }

    def apply(
        self, logits: torch.Tensor, info: Any, reqs: Sequence[Any], candidates: torch.Tensor, seq_lens: torch.Tensor
    ) -> None:
        """Change the logits of a block in place.

        Args:
            logits: ``[B, S + 1, V]``; row j predicts the token after j drafted ones.
            info, reqs: of the batch.
            candidates: int64 ``[B, S + 1]``, the newest token of each request and the drafted ones.
            seq_lens: int64 ``[B]``, committed tokens in the KV cache: all but the newest.
        """
        if not info.has_custom_logit_processor:
            return
        positions = logits.shape[1]
        blocks, lengths = candidates.tolist(), seq_lens.tolist()
        written: list[array] = []
        for req, block, length in zip(reqs, blocks, lengths, strict=True):
            before = self._written(req, length, block[0])
            written += [before + array("q", block[1 : 1 + drafted]) for drafted in range(positions)]
        owners = [owner for owner in range(len(reqs)) for _ in range(positions)]
        apply_processors(logits.view(-1, logits.shape[-1]), info, owners, reqs, written)

    def stage_mixed(self, info: Any, reqs: Sequence[Any], tokens: torch.Tensor, seq_lens: torch.Tensor) -> Any:
        """A mixed batch's sampling information, from which SGLang's sampler applies the processors itself.

        Args:
            info: of the batch; stays as it is.
            reqs: the batch's last requests, those that decode one token here.
            tokens, seq_lens: int64 ``[len(reqs)]``, the newest token of each, and its length with that token.
        """
        if not (reqs and info.has_custom_logit_processor):
            return info
        parameters, first = list(info.custom_params), len(info) - len(reqs)
        for i, (req, token, length) in enumerate(zip(reqs, tokens.tolist(), seq_lens.tolist(), strict=True), first):
            parameters[i] = parameters_at(req, parameters[i], self._written(req, length - 1, token))
        return dataclasses.replace(info, custom_params=parameters)

    def _written(self, req: Any, seq_len: int, newest: int) -> array:
        if req.custom_logit_processor is None:
            return array("q")
        missing = seq_len + 1 - len(req.origin_input_ids) - len(req.output_ids)
        if missing <= 0:
            return req.output_ids
        if missing == 1:
            return req.output_ids + array("q", [newest])
        tokens, length = self._last[req.rid]
        return req.output_ids + array("q", tokens[: int(length)].tolist()[-missing:])

"""Responses through an OpenAI-compatible server (SGLang serving the target): the fast way on GPU machines.

The server speaks text, so responses are tokenised again; hidden states come from ``data features`` or on the fly.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from domino_sglang.training.data.generate import Completion, Request
from domino_sglang.training.data.storage import DataError, GrowingJsonl, chat_messages, read_jsonl
from domino_sglang.training.data.synthesize import Chat, request_seed, response_row
from domino_sglang.training.recipe import DataRecipe

logger = logging.getLogger(__name__)


def write_remote_responses(
    endpoint: str, model: str, tokenizer: Any, recipe: DataRecipe, folder: Path, progress: bool = True
) -> Path:
    """Answer ``folder/prompts.jsonl`` through ``endpoint``; rows as :func:`write_responses` writes them, no features.

    Raises:
        DataError: the server cannot be reached or refuses, or the disk is full; finished rows are kept.
    """
    from openai import OpenAI, OpenAIError

    chat, file = Chat(tokenizer), folder / "responses.jsonl"
    output = GrowingJsonl(file)
    answered = {row["id"] for _, row in read_jsonl(file)}
    prompts = {row["id"]: row for _, row in read_jsonl(folder / "prompts.jsonl") if row["id"] not in answered}
    client = OpenAI(base_url=endpoint, api_key="none", max_retries=3)

    def answer(number: int) -> dict[str, Any] | None:
        row = prompts[number]
        ids = chat.prompt_ids(chat_messages(row, f"prompt {number}"))
        if len(ids) > recipe.max_prompt_tokens:
            return None
        seed = request_seed(recipe.seed, number, 2)
        temperature = 0.0 if (seed >> 20) % 1000 < 1000 * recipe.greedy_share else recipe.temperature
        reply = client.chat.completions.create(
            model=model,
            messages=row["messages"],
            temperature=temperature,
            max_tokens=recipe.max_new_tokens,
            seed=seed % 2**31,
        )
        choice = reply.choices[0]
        response = chat.encode(choice.message.content or "")
        if choice.finish_reason == "stop" and tokenizer.eos_token_id is not None:
            response.append(tokenizer.eos_token_id)
        request = Request(number, tuple(ids), recipe.max_new_tokens, temperature, seed)
        return response_row(Completion(request, response, choice.finish_reason, None), row, chat, recipe.cut_loops)

    try:
        with ThreadPoolExecutor(recipe.slots) as pool:
            waiting = [pool.submit(answer, number) for number in prompts]
            try:
                bar = tqdm(as_completed(waiting), total=len(waiting), desc="responses", disable=not progress)
                for done in bar:
                    row = done.result()
                    if row is not None and row["response_ids"]:
                        output.append(row)
            except OpenAIError as error:
                raise DataError(
                    f"the server at {endpoint} failed: {error}; {output.rows} finished rows are kept in {file}. Start "
                    "the server and run the same command to go on"
                ) from error
            finally:
                for one in waiting:
                    one.cancel()
    finally:
        output.close()
    return file

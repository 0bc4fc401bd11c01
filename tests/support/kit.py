"""Runs SGLang's own test kits: gives them what they read off ``self``, and cuts what they ask for.

The kits were written for GPUs and models of 8B parameters. They ask for up to 16000 tokens where a few dozen show the
same, and for values without an end, which a small model writes until it is stopped.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import requests
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.test.test_utils import CustomTestCase

tokenizer_at = functools.cache(get_tokenizer)


class Kit(CustomTestCase):
    """Mix in after a kit.

    Attributes:
        arm: name of the server.
        longest_answer: tokens, None for what the kit asks.
        longest_prompt: characters; the middle of a longer one is left out.
        longest_repeat: an end to ``[a-z]+`` and ``[a-z]*`` in the grammars that the server gets. The kit's own pattern
            still judges the text.
        temperature: in place of the kit's, where its pattern wants more than its grammar says, and a sample may not
            have it.
    """

    arm = "sync"
    longest_answer: int | None = None
    longest_prompt: int | None = None
    longest_repeat: int | None = None
    temperature: float | None = None
    api_key = "none"

    @pytest.fixture(autouse=True)
    def _attach(self, servers, target, monkeypatch):
        cls = type(self)
        server = servers[self.arm]
        cls.base_url, cls.model, cls.process = server.client.url, server.client.model, server
        cls.tokenizer = tokenizer_at(str(target))
        monkeypatch.setattr(requests, "post", functools.partial(self._post, requests.post))

    @property
    def client(self):
        from openai import OpenAI

        return OpenAI(base_url=self.base_url + "/v1", api_key=self.api_key)

    def _post(self, post, url: str, json=None, **kwargs):
        return post(url, json=None if json is None else self._cut(json), **kwargs)

    def _cut(self, body: dict[str, Any]) -> dict[str, Any]:
        body = dict(body)
        if self.longest_prompt is not None and len(body.get("text", "")) > self.longest_prompt:
            half = self.longest_prompt // 2
            body["text"] = body["text"][:half] + body["text"][-half:]
        if "sampling_params" not in body:
            return self._cut_sampling(body)
        params = body["sampling_params"]
        cut = [self._cut_sampling(one) for one in params] if isinstance(params, list) else self._cut_sampling(params)
        return body | {"sampling_params": cut}

    def _cut_sampling(self, params: dict[str, Any]) -> dict[str, Any]:
        params = dict(params)
        for name in ("max_new_tokens", "max_tokens"):
            if self.longest_answer is not None and name in params:
                params[name] = min(params[name], self.longest_answer)
        if self.temperature is not None and "temperature" in params:
            params["temperature"] = self.temperature
        for name in ("regex", "ebnf"):
            if self.longest_repeat is not None and isinstance(params.get(name), str):
                params[name] = re.sub(r"\]([+*])", self._ended, params[name])
        return params

    def _ended(self, repeat: re.Match) -> str:
        return f"]{{{1 if repeat[1] == '+' else 0},{self.longest_repeat}}}"


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """A kit's JSON schema with an end to every value."""
    for value in schema["properties"].values():
        if value["type"] == "integer":
            value |= {"minimum": 1, "maximum": 9_999}
        else:
            value["pattern"] = value["pattern"].replace("+", "{1,6}")
    return schema

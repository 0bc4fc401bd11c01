"""A stand-in for a server's HTTP side, for what a real one cannot be told to do: stall, refuse, die in mid-answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

SENTENCE = "A chain of dominoes falls once the first one tips: each piece hits the next and hands its push along."
WORDS = SENTENCE.split()
# Characters at which readers of text lines break, and the server's JSON writer leaves as they are.
SEPARATORS = ["one\u2028two", "three\u0085four"]
MARKUP = ["<img src=x onerror=document.title='run'>", "<b>bold</b>"]
ACCEPTED = (1, 4, 2, 8, 3, 6, 1, 5, 2, 7)


class Double:
    """What the answers look like, and what was asked.

    Attributes:
        app: serve it with :class:`tests.support.web.Served`.
        requests: bodies of ``/generate``.
        aborted: answers whose reader went away.
        spans: when each answer began and ended, on ``time.monotonic``.
    """

    def __init__(self, algorithm: str | None = "DOMINO", tokens: int = 40, pause_s: float = 0.0):
        self.algorithm, self.tokens, self.pause_s = algorithm, tokens, pause_s
        self.requests: list[dict] = []
        self.chats: list[dict] = []
        self.aborted = 0
        self.spans: list[tuple[float, float]] = []
        self.app = FastAPI()
        self.app.get("/health")(lambda: "ok")
        self.app.get("/server_info")(self.server_info)
        self.app.post("/v1/tokenize")(self.tokenize)
        self.app.post("/generate")(self.generate)

    def server_info(self) -> dict:
        drafts = 8 if self.algorithm else None
        return {
            "served_model_name": "a-double",
            "speculative_algorithm": self.algorithm,
            "speculative_num_draft_tokens": drafts,
        }

    async def tokenize(self, request: Request):
        body = await request.json()
        self.chats.append(body)
        last = body["messages"][-1]["content"]
        if "too long" in last:
            return JSONResponse({"object": "error", "message": "the prompt is longer than the context"}, 400)
        # The wish travels as token ids: the prompt's characters.
        return {"tokens": [ord(character) for character in last], "count": len(last), "max_model_len": 2048}

    async def generate(self, request: Request):
        body = await request.json()
        self.requests.append(body)
        wish = "".join(map(chr, body["input_ids"]))
        if "full house" in wish:
            return JSONResponse({"error": {"message": "The request queue is full."}}, 503)
        return StreamingResponse(self.chunks(wish, body), media_type="text/event-stream")

    async def chunks(self, wish: str, body: dict) -> AsyncIterator[str]:
        if "refuse late" in wish:
            yield sse({"error": {"message": "Input length exceeds the maximum allowed length", "code": 400}})
            return
        total = min(self.tokens, body["sampling_params"]["max_new_tokens"])
        reason = "stop" if total == self.tokens else "length"
        done = steps = 0
        began = time.monotonic()
        try:
            while done < total:
                size = 1 if done == 0 or not self.algorithm else ACCEPTED[steps % len(ACCEPTED)]
                steps += done > 0
                if steps == 0 and "together" in wish:
                    size, steps = size + ACCEPTED[0], 1
                done = min(total, done + size)
                if done > 10 and "stall" in wish:
                    await asyncio.sleep(2.5)
                    wish = ""
                if done > 10 and "die" in wish:
                    raise ConnectionError("as asked")
                meta = {"prompt_tokens": len(body["input_ids"]), "completion_tokens": done, "finish_reason": None}
                if done == total:
                    meta["finish_reason"] = {"type": reason}
                    if self.algorithm:
                        meta["spec_verify_ct"] = steps
                words = MARKUP if "markup" in wish else SEPARATORS if "separators" in wish else WORDS
                text = " ".join(words[i % len(words)] for i in range(done))
                yield sse({"text": text, "output_ids": list(range(done)), "meta_info": meta})
                await asyncio.sleep(self.pause_s)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.spans.append((began, time.monotonic()))
        yield "data: [DONE]\n\n"


def sse(chunk: dict) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

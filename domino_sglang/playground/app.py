"""The playground's own small server: one page, and a proxy to the servers named on the command line and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import httpx
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from domino_sglang.playground.hosts import on_one_host
from domino_sglang.playground.upstream import Chat, answer, describe

PAGE = Path(__file__).with_name("page.html")
# The page needs nothing from elsewhere, and may ask nothing of anybody else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
LOOPBACK = ("localhost", "127.0.0.1")
SLOW_AFTER_S = 5.0


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=200_000)]


class Question(BaseModel):
    """Body of ``POST /api/chat``; ``server`` counts the servers of ``GET /api/servers`` from 0."""

    server: Annotated[int, Field(ge=0)] = 0
    messages: Annotated[list[Message], Field(min_length=1, max_length=500)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 256
    thinking: bool = False


def create_app(
    urls: Sequence[str],
    slow_after_s: float = SLOW_AFTER_S,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """The playground for one server, or for two that race: in turn where one host has both, which would else share its
    cores.

    Args:
        urls: base URLs, from :func:`domino_sglang.playground.upstream.server_url`.
        slow_after_s: silence after which the page calls a stream slow.
        api_key: sent to the servers as a bearer token.
        allowed_hosts: names a browser may use for the playground; "*" allows any.
    """
    take_turns = len(urls) > 1 and on_one_host(urls)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(title="Domino playground", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    # Keeps a foreign page from reaching the playground under a name of its own (DNS rebinding).
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))

    @app.get("/")
    async def page() -> HTMLResponse:
        settings = json.dumps({"slow_after_s": slow_after_s, "take_turns": take_turns})
        html = PAGE.read_text(encoding="utf-8").replace("{/*SETTINGS*/}", settings)
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    @app.get("/api/servers")
    async def servers() -> list[dict]:
        found = await asyncio.gather(*(describe(app.state.client, url) for url in urls))
        return [{"url": url, **what} for url, what in zip(urls, found, strict=True)]

    @app.post("/api/chat")
    async def chat(question: Question) -> StreamingResponse:
        if question.server >= len(urls):
            raise HTTPException(422, f"server is {question.server}, and there are {len(urls)}")
        asked = Chat(
            messages=[message.model_dump() for message in question.messages],
            temperature=question.temperature,
            max_tokens=question.max_tokens,
            thinking=question.thinking,
        )

        async def lines() -> AsyncIterator[str]:
            async for event in answer(app.state.client, urls[question.server], asked):
                yield f"data: {json.dumps(event)}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return app

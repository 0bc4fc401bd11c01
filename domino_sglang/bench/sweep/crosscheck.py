"""One point measured by SGLang's own serving benchmark beside locust: two clients that must agree."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

from domino_sglang.bench.common.statistics import Spread
from domino_sglang.bench.sweep import load
from domino_sglang.bench.sweep.load import Load
from domino_sglang.bench.sweep.point import Point, summarise
from domino_sglang.bench.sweep.rows import CrossCheckRow
from domino_sglang.measure.client import Client

TOLERANCE = 0.05


def cross_check(
    arm: str,
    url: str,
    point: Point,
    asked: Load,
    repetitions: int,
    theirs: Callable[[str, Load], float] | None = None,
) -> CrossCheckRow:
    """Measure one point both ways, in turns, and compare the medians.

    Args:
        theirs: (url, load) -> tokens/s; None runs ``sglang.bench_serving``.
    """
    theirs = theirs or bench_serving
    locust_rates: list[float] = []
    sglang_rates: list[float] = []
    error = None
    try:
        for repetition in range(repetitions):
            load.flush_cache(url)
            rows = load.run(url, asked)
            locust_rates.append(summarise(arm, point, repetition, rows, len(asked.prompts), None).tokens_per_s)
            sglang_rates.append(theirs(url, asked))
    except (RuntimeError, OSError, httpx.HTTPError, subprocess.SubprocessError) as problem:
        error = str(problem)[-1000:]
    difference = float("nan")
    if locust_rates and sglang_rates:
        difference = Spread.of(locust_rates).median / Spread.of(sglang_rates).median - 1
    return CrossCheckRow(
        arm=arm,
        **vars(point),
        locust_tokens_per_s=locust_rates,
        sglang_tokens_per_s=sglang_rates,
        difference=difference,
        agrees=abs(difference) <= TOLERANCE,
        error=error,
    )


def bench_serving(url: str, asked: Load) -> float:
    """Output tokens/s by ``python -m sglang.bench_serving`` on the same requests in the same order.

    Raises:
        RuntimeError: it failed; the end of what it printed.
    """
    with Client(url) as client:
        model, tokenizer = client.served_model(), client.told("/model_info")["tokenizer_path"]
    with tempfile.TemporaryDirectory(prefix="domino-cross-check-") as folder:
        prompts, out = Path(folder) / "prompts.jsonl", Path(folder) / "out.jsonl"
        asked.write(prompts)
        command = [
            *(sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang-oai-chat", "--base-url", url),
            *("--dataset-name", "openai", "--dataset-path", str(prompts), "--num-prompts", str(len(asked.prompts))),
            *("--max-concurrency", str(asked.users), "--disable-ignore-eos", "--flush-cache", "--disable-tqdm"),
            *("--model", model, "--tokenizer", tokenizer, "--output-file", str(out)),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=asked.timeout_s, cwd=folder)
        if result.returncode != 0 or not out.is_file():
            tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
            raise RuntimeError(f"sglang.bench_serving failed with status {result.returncode}:\n{tail}")
        return float(json.loads(out.read_text().splitlines()[-1])["output_throughput"])

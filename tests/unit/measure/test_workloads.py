import argparse
import json

import pytest

from domino_sglang.measure import long_context
from domino_sglang.measure.workloads import (
    CHAT_FILE,
    EVALUATED,
    MIX,
    WORKLOADS,
    WorkloadError,
    chat,
    from_jsonl,
    humaneval,
    maths,
    mixed,
    take,
)
from domino_sglang.training.data.prompts import CONTAINED_FROM, excluded_prompts, normalised
from tests import prompts


def chat_rows():
    return [json.loads(line) for line in CHAT_FILE.read_text(encoding="utf-8").splitlines()]


def test_the_chat_file_is_large_and_many_tongued():
    rows = chat_rows()
    assert len(rows) >= 40
    assert len({row["language"] for row in rows}) >= 6
    assert len({row["style"] for row in rows}) >= 10
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_few_chat_prompts_already_hold_several_languages():
    languages = {row["prompt"]: row["language"] for row in chat_rows()}
    first = [languages[prompt.messages[0]["content"]] for prompt in chat()[:8]]
    assert len(set(first)) >= 4
    assert len(chat()) == len(languages)


def test_documents_are_long_different_and_repeatable():
    documents = [long_context.prompt(i, 3000) for i in range(4)]
    assert len(set(documents)) == 4
    assert all(3000 <= len(document) < 3700 for document in documents)
    assert documents[2] == long_context.prompt(2, 3000)


def test_a_documents_question_is_answered_in_it():
    text, question = long_context.document(5, 3000)
    entry = question.split("according to entry ")[1].split(",")[0]
    ship = question.split("What did the ")[1].split(" carry")[0]
    assert f"Entry {entry}," in text
    assert ship in next(line for line in text.splitlines() if line.startswith(f"Entry {entry},"))


def test_mixed_takes_the_workloads_in_turn():
    assert tuple(prompt.workload for prompt in mixed()[: len(MIX)]) == MIX
    assert set(MIX) == set(WORKLOADS) - {"mixed"}


def test_take_begins_again_at_the_end():
    three = chat()[:3]
    assert take(three, 4, start=2) == [three[2], three[0], three[1], three[2]]


def test_own_prompts_of_every_shape(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": "a\u2028b"},
        {"question": "b"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]},
        {"conversations": [{"from": "human", "value": "d"}, {"from": "gpt", "value": "answer"}]},
    ]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    found = from_jsonl(file)
    assert [prompt.messages[-1] for prompt in found] == [{"role": "user", "content": c} for c in ("a\u2028b", *"bcd")]
    assert found[2].messages[0]["role"] == "system"
    assert {prompt.workload for prompt in found} == {"mine"}


@pytest.mark.parametrize("line", ["{}", "not json", '{"messages": [{"role": "user"}]}'])
def test_a_line_without_a_prompt_is_named(tmp_path, line):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(WorkloadError, match=r"mine\.jsonl, line 2"):
        from_jsonl(file)


def test_everyone_who_measures_asks_the_same():
    """The benchmarks, exactness and the model card: the same objects under the same names."""
    from domino_sglang.bench import command as bench
    from domino_sglang.bench.common.prompt_options import prompts_by_workload
    from domino_sglang.training.evaluation.workloads import evaluation_prompts

    for measurement in ("sweep", "accept", "exactness"):
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        for name, found in prompts_by_workload(parser.parse_args([measurement])).items():
            assert found is WORKLOADS[name](), (measurement, name)
    for name, found in evaluation_prompts(5).items():
        assert len(found) == 5
        assert all(mine is theirs for mine, theirs in zip(found, WORKLOADS[name](), strict=False)), name
    kinds = {"code": humaneval(), "maths": maths()}
    for kind, found in kinds.items():
        assert set(getattr(prompts, kind)(4)) <= {prompt.problem for prompt in found}, kind


@pytest.mark.parametrize("name", EVALUATED)
def test_what_is_asked_is_kept_out_of_the_training_data(name):
    excluded = excluded_prompts()
    for prompt in WORKLOADS[name]():
        assert prompt.problem in excluded
        if len(normalised(prompt.problem)) >= CONTAINED_FROM:
            assert prompt.text in excluded and f"Please. {prompt.problem} Thanks!" in excluded

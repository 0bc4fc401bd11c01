"""The slot generator: the same tokens as Transformers, the same draws whatever shares the batch, true features."""

from __future__ import annotations

import pytest
import torch

from domino_sglang.training.data import generate
from domino_sglang.training.data.generate import Request, SlotGenerator
from domino_sglang.training.data.loops import loop_start, looped_on, repetition


def requests(temperature: float, count: int = 5) -> list[Request]:
    generator = torch.Generator().manual_seed(2)
    return [
        Request(i, tuple(torch.randint(5, 60, (3 + 2 * i,), generator=generator).tolist()), 6 + i, temperature, 70 + i)
        for i in range(count)
    ]


@pytest.mark.parametrize("sort_every", [generate.SORT_EVERY, 2])
def test_greedy_equals_generate_and_features_equal_a_forward(target, sort_every, monkeypatch):
    monkeypatch.setattr(generate, "SORT_EVERY", sort_every)
    monkeypatch.setattr(generate, "ROWS_ATTENDING", 2)
    generator = SlotGenerator(target, slots=3, max_length=32, stop_ids=(), capture_layers=(0, 2), cut_loops=False)
    done = {c.request.index: c for c in generator.run(requests(0.0))}
    assert set(done) == set(range(5))
    for request in requests(0.0):
        prompt = torch.tensor([request.prompt_ids])
        wanted = target.generate(prompt, max_new_tokens=request.max_new_tokens, do_sample=False, eos_token_id=None)
        completion = done[request.index]
        assert completion.ids == wanted[0, prompt.shape[1] :].tolist() and completion.finish == "length"
        with torch.inference_mode():
            states = target(wanted[:, :-1], output_hidden_states=True).hidden_states
        features = torch.cat([states[1], states[3]], -1)[0]
        torch.testing.assert_close(completion.features.float(), features, atol=2e-2, rtol=2e-3)


def test_a_draw_depends_on_the_request_alone(target):
    def run(slots, chosen):
        generator = SlotGenerator(target, slots=slots, max_length=32, stop_ids=(3,), cut_loops=False)
        return {c.request.index: c.ids for c in generator.run(chosen)}

    together = run(4, requests(1.0))
    assert together == run(1, requests(1.0))
    assert run(3, requests(1.0)[3:]) == {i: together[i] for i in (3, 4)}


def test_sampling_follows_the_distribution(target):
    draws = 600
    many = [Request(i, (7, 9), 1, 0.7, 1000 + i) for i in range(draws)]
    counts = torch.zeros(target.config.vocab_size)
    for completion in SlotGenerator(target, slots=8, max_length=4, stop_ids=()).run(many):
        counts[completion.ids[0]] += 1
    with torch.inference_mode():
        p = torch.softmax(target(torch.tensor([[7, 9]])).logits[0, -1] / 0.7, -1)
    expected = p * draws
    big = expected >= 5
    statistic = float(((counts - expected)[big] ** 2 / expected[big]).sum())
    assert statistic < big.sum() + 5 * (2 * big.sum()) ** 0.5


def test_stop_and_limits(target):
    greedy = next(SlotGenerator(target, slots=1, max_length=32, stop_ids=(), cut_loops=False).run(requests(0.0, 1)))
    stop = greedy.ids[2]
    cut = next(SlotGenerator(target, slots=1, max_length=32, stop_ids=(stop,)).run(requests(0.0, 1)))
    assert cut.finish == "stop" and cut.ids == greedy.ids[: greedy.ids.index(stop) + 1]
    with pytest.raises(ValueError, match="max_length"):
        list(SlotGenerator(target, slots=1, max_length=8, stop_ids=()).run(requests(0.0)))


def test_loops_are_found_and_honest_repetition_is_not():
    assert loop_start([1, 2, 3] * 3) is None
    assert loop_start([9, 8] + [1, 2, 3] * 20) == 2
    assert loop_start(list(range(40)) + [5] * 48) == 40
    assert loop_start(list(range(200))) is None
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(0.2)


def test_a_loop_is_continued_by_its_period():
    assert looped_on([9, 8, 1, 2, 3, 1, 2, 3], 12) == [9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    assert looped_on([1, 2, 5, 5, 5], 8) == [1, 2, 5, 5, 5, 5, 5, 5]
    assert looped_on([1, 2, 1, 1, 2, 1], 8) == [1, 2, 1, 1, 2, 1, 1, 2]  # period 3 explains more than 1 does
    assert looped_on([4, 5, 4, 5], 3) == [4, 5, 4, 5]

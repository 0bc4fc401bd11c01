"""Features of responses written elsewhere, and loops written out: only what greedy decoding would write is kept."""

from __future__ import annotations

import json

import torch

from domino_sglang.training.data import features
from domino_sglang.training.data.storage import map_features
from tests.support.overfitting import write_greedy_texts

PROMPTS = [torch.randint(5, 60, (8,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(4)]


def test_whole_loops_are_what_the_target_writes(recipe, target, monkeypatch):
    """Responses cut at 12 tokens, guesses right up to a place and wrong there: kept is what greedy decoding writes."""
    write_greedy_texts(recipe, target, PROMPTS, 24)
    file = recipe.data_dir / "responses.jsonl"
    whole = [json.loads(line) for line in file.read_text().splitlines()]
    truth = {tuple(row["response_ids"][:12]): row["response_ids"] for row in whole}
    # Of the four: a guess that is all right, wrong from the start, wrong within; and a sampled response, left alone.
    wrong_at, temperature = [None, 12, 17, None], [0.0, 0.0, 0.0, 1.0]
    places = dict(zip(truth, wrong_at, strict=True))

    def guess(ids, length):
        guessed, place = truth[tuple(ids)][:length], places[tuple(ids)]
        if place is not None:
            guessed[place] = (guessed[place] + 1) % target.config.vocab_size
        return guessed

    monkeypatch.setattr(features, "looped_on", guess)
    cut = [
        row | {"response_ids": row["response_ids"][:12], "finish": "loop", "temperature": heat}
        for row, heat in zip(whole, temperature, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in cut))
    layers = recipe.drafter.target_layer_ids
    features.write_features(target, recipe.data_dir, layers, whole_loops=20, progress=False)
    after = [json.loads(line) for line in file.read_text().splitlines()]
    lengths = [20, 13, 18, 12]
    assert [row["response_ids"] for row in after] == [
        row["response_ids"][:n] for row, n in zip(whole, lengths, strict=True)
    ]
    assert [row["finish"] for row in after] == ["length", "length", "length", "loop"]
    stored = map_features(recipe.data_dir / "features.f16", len(layers) * target.config.hidden_size)
    assert len(stored) == sum(len(row["prompt_ids"]) + len(row["response_ids"]) - 1 for row in after)
    for row in after:
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"][:-1]])
        with torch.no_grad():
            states = target(ids, output_hidden_states=True).hidden_states
        wanted = torch.cat([states[layer + 1] for layer in layers], -1)[0]
        found = torch.from_numpy(stored[row["features"] : row["features"] + ids.shape[1]].copy()).float()
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-3)

    features.write_features(target, recipe.data_dir, layers, whole_loops=20, progress=False)
    again = [json.loads(line)["response_ids"] for line in file.read_text().splitlines()]
    assert again == [row["response_ids"] for row in after], "a second time changes nothing"

"""Updates of a model's weights that fail, on modules small enough to compare tensor by tensor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from domino_sglang.serving.weight_updates import all_or_nothing, load_from_disk, update_from_memory, what_is_unfit


def tied_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model.requires_grad_(False)


def updater_of(model: nn.Module, path: str = "served") -> SimpleNamespace:
    config = SimpleNamespace(model_path=path, hf_config=SimpleNamespace(tie_word_embeddings=False))
    return SimpleNamespace(get_model=lambda: model, model_config=config)


def overwrite(model: nn.Module) -> None:
    """The three ways in which SGLang's loaders write: into the data, other data, another parameter."""
    model[0].weight.data.copy_(torch.ones(3, 3))
    model[0].bias.data = torch.ones(5)
    model[2].bias = nn.Parameter(torch.ones(3), requires_grad=False)
    model[1].running_mean += 1


def raising(updater, *_args):
    overwrite(updater.get_model())
    raise RuntimeError("the disk is gone")


def refusing(updater, *_args):
    overwrite(updater.get_model())
    return False, "the disk is gone"


@pytest.mark.parametrize("load", [raising, refusing])
def test_a_failed_update_leaves_every_tensor_in_its_place(load):
    model = tied_model()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    before = {name: (tensor, tensor.data_ptr(), tensor.clone()) for name, tensor in tensors.items()}
    version = model[0].weight._version
    success, message = all_or_nothing(load, updater_of(model))
    assert not success and "the disk is gone" in message
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert after.keys() == before.keys() and model[2].weight is model[0].weight
    for name, (tensor, place, content) in before.items():
        assert after[name] is tensor and tensor.data_ptr() == place and torch.equal(tensor, content)
    assert model[0].weight._version > version, "or packed copies would stay as they are"


def test_a_successful_update_stays():
    model = tied_model()
    assert all_or_nothing(lambda updater: (overwrite(updater.get_model()), (True, "done"))[1], updater_of(model))[0]
    assert torch.equal(model[0].weight, torch.ones(3, 3))


def test_the_folder_that_is_served_is_remembered():
    def as_sglang(updater, path, _load_format):
        updater.model_config.model_path = path
        return path == "good", ""

    updater = updater_of(tied_model())
    for path, remembered in (("bad", "served"), ("good", "good"), ("bad", "good")):
        load_from_disk(as_sglang, updater, path, "auto")
        assert updater.model_config.model_path == remembered


OFFERS = {
    "the same": ({}, ""),
    "one more": ({"c": (4,)}, ""),
    "another shape": ({"b": (3, 2)}, "b in OFFERED has shape [3, 2], expected [2, 3] as in SERVED"),
    "one less": ({"b": None}, "OFFERED lacks b, which SERVED has; save the whole model there"),
    "a tied head less": ({"lm_head.weight": None}, ""),
}


@pytest.mark.parametrize("case", OFFERS)
def test_what_a_folder_must_hold(tmp_path, case):
    shapes = {"a": (2,), "b": (2, 3), "lm_head.weight": (2, 2)}
    changes, said = OFFERS[case]
    for name, content in (("SERVED", shapes), ("OFFERED", shapes | changes)):
        (tmp_path / name).mkdir()
        tensors = {tensor: torch.zeros(shape) for tensor, shape in content.items() if shape}
        save_file(tensors, tmp_path / name / "model.safetensors")
    unfit = what_is_unfit(tmp_path / "SERVED", tmp_path / "OFFERED", {"lm_head.weight"})
    assert unfit.replace(f"{tmp_path}/", "") == said


def test_a_truncated_folder_is_named(tmp_path):
    for name in ("served", "offered"):
        (tmp_path / name).mkdir()
        for part in "ab":
            save_file({part: torch.zeros(64)}, tmp_path / name / f"{part}.safetensors")
    cut = tmp_path / "offered" / "b.safetensors"
    cut.write_bytes(cut.read_bytes()[:-8])
    assert f"{cut} is truncated" in what_is_unfit(tmp_path / "served", tmp_path / "offered", set())


@pytest.mark.parametrize(("asked", "reached"), [("all", "target"), ("draft", "draft"), ("target", "target")])
def test_tensors_reach_the_drafter_only_by_name(asked, reached):
    assert (
        update_from_memory(lambda _manager, request: request.selector, None, SimpleNamespace(selector=asked)) == reached
    )

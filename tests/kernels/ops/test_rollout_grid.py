"""The rollout against the fp32 oracle: shapes, dtypes, edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_cases import check, make_case


@pytest.mark.parametrize(("batch", "proposals"), [(1, 3), (2, 3), (3, 3), (19, 2)])
@pytest.mark.parametrize("sampled", [False, True])
def test_batches(device, batch, proposals, sampled):
    check(make_case(batch=batch, proposals=proposals, sampled=sampled, device=device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 5])
def test_half_precision(device, dtype, batch):
    check(make_case(batch=batch, dtype=dtype, sampled=batch == 5, device=device))


def test_float32_logits_from_bfloat16_weights(device):
    check(make_case(dtype=torch.bfloat16, base_dtype=torch.float32, device=device))


@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
def test_prefix_lengths(device, prefix):
    check(make_case(prefix=prefix, bias=prefix == 0, sampled=prefix == 2, device=device))


@pytest.mark.parametrize(
    "sizes",
    [
        dict(proposals=1, prefix=0),
        dict(proposals=1, prefix=1),
        dict(vocab=1, proposals=2),
        dict(vocab=1023, rank=3, units=5, hidden=7),
        dict(rank=300, vocab=97),
        dict(batch=1, rank=300, vocab=97),
        dict(batch=1, hidden=1, units=1, rank=1, vocab=2, proposals=2, prefix=0),
        dict(batch=70, proposals=1, prefix=0, vocab=65),
        dict(hidden=300, units=150, rank=33),
    ],
    ids=str,
)
def test_edge_shapes(device, sizes):
    check(make_case(bias=True, device=device, **sizes))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(device, data):
    def size(name, low, high):
        return data.draw(st.integers(low, high), label=name)

    proposals = size("proposals", 1, 3)
    check(
        make_case(
            batch=size("batch", 1, 5),
            proposals=proposals,
            hidden=size("hidden", 1, 40),
            vocab=size("vocab", 1, 400),
            units=size("units", 1, 24),
            rank=size("rank", 1, 40),
            prefix=size("prefix", 0, proposals),
            sampled=data.draw(st.booleans(), label="sampled"),
            bias=data.draw(st.booleans(), label="bias"),
            seed=size("seed", 0, 2**20),
            device=device,
        )
    )


@pytest.mark.parametrize("layout", ["slice", "proposals first", "vocabulary strided"])
def test_strided_inputs(device, layout):
    case = make_case(device=device)
    batch, proposals, vocab = case.base.shape
    if layout == "slice":
        store = torch.full((batch, proposals + 2, vocab + 5), float("nan"), device=device)
        view = store[:, 1 : proposals + 1, :vocab]
    elif layout == "proposals first":
        view = torch.empty(proposals, batch, vocab, device=device).transpose(0, 1)
    else:
        view = torch.empty(vocab, batch, proposals, device=device).permute(1, 2, 0)
    view.copy_(case.base)
    z = torch.full((batch, proposals + 1, case.z.shape[-1]), float("nan"), device=device)[:, 1:]
    z.copy_(case.z)
    check(case.with_(base=view, z=z))


def test_smaller_batches_share_one_rollout(device):
    whole = make_case(batch=9, proposals=2, device=device)
    rollout = whole.built()
    for batch in (9, 1, 4, 2):
        part = whole.with_(z=whole.z[:batch], base=whole.base[:batch], bonus=whole.bonus[:batch])
        check(part, rollout(part.z, part.base, part.bonus))


@pytest.mark.parametrize("sampled", [False, True])
def test_every_output_and_workspace_is_written(device, sampled):
    case = make_case(sampled=sampled, prefix=2, device=device)
    rollout = case.built()
    for tensor in vars(rollout).values():
        if isinstance(tensor, torch.Tensor) and tensor is not case.embedding:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 2**30)
    check(case, rollout(case.z, case.base, case.bonus, case.sampling))


def test_embedding_may_be_a_callable(device):
    case = make_case(prefix=2, sampled=True, device=device)
    check(case, case.run(embedding=lambda tokens: case.embedding[tokens]))

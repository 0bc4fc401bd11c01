"""One process or many: what torchrun started, and how the step is wrapped (FSDP2, PyTorch's own)."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from domino_sglang.training.recipe import RecipeError

logger = logging.getLogger(__name__)

FULL_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_RANK_0 = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        kind: ``none`` or ``fsdp``.
    """

    rank: int
    size: int
    device: torch.device
    kind: str

    @classmethod
    def join(cls, wanted: str) -> World:
        """Join the group that torchrun describes, if any.

        Raises:
            RecipeError: ``fsdp`` asked for without torchrun, or several processes with ``none``.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        under_torchrun = "RANK" in os.environ
        if wanted == "fsdp" and not under_torchrun:
            raise RecipeError(
                f"train.parallel is {wanted!r}, which needs processes: start with `torchrun --nproc-per-node N -m "
                "domino_sglang.cli train RECIPE`, or set train.parallel: none"
            )
        if wanted == "none" and size > 1:
            raise RecipeError(f"train.parallel is 'none' but torchrun started {size} processes; set it to fsdp")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if not under_torchrun or wanted == "none":
            return cls(0, 1, device, "none")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size, device, "fsdp")

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, step: nn.Module) -> nn.Module:
        """Shard parameters, gradients and optimiser state (FSDP2)."""
        if self.kind == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # One group over the whole drafter: its parts are called in an order that per-layer hooks do not follow
            # (context keys first), and a drafter is small beside the target.
            fully_shard(step, mesh=init_device_mesh(self.device.type, (self.size,)))
        return step

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.kind != "none" and dist.is_initialized():
            dist.destroy_process_group()


def gather_state(step: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """Whole model and optimiser state on the CPU of rank 0; every rank must call."""
    return (
        get_model_state_dict(step, options=FULL_STATE),
        get_optimizer_state_dict(step, optimizer, options=FULL_STATE),
    )


def scatter_state(
    world: World, step: nn.Module, optimizer: torch.optim.Optimizer, model: dict, optimiser: dict
) -> None:
    """Give a whole state back to a model that may be sharded; every rank must call."""
    options = FROM_RANK_0 if world.size > 1 else StateDictOptions(full_state_dict=True)
    set_model_state_dict(step, model, options=options)
    # A head that a plain DFlash drafter never calls has had no gradient, and no state of the optimiser to give back.
    set_optimizer_state_dict(step, optimizer, optimiser, options=dataclasses.replace(options, strict=False))

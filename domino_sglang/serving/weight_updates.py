"""New weights for a running server: the target's reach the target alone, and those that do not fit leave the old ones.

SGLang offers a target's weights to the drafter too, does not notice a tensor that a checkpoint lacks, and reads the
weights to go back to from the folder that has just failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from domino_sglang.checkpoint.safetensors_files import read_folder

logger = logging.getLogger(__name__)


def runners_to_update(select: Callable, manager: Any, selector: str = "target") -> list[tuple[str, Any]]:
    """Around the scheduler's choice of runners: the target's, where the request does not say."""
    return select(manager, selector)


def update_from_memory(update: Callable, manager: Any, request: Any) -> Any:
    """Around the scheduler's updates from tensors: ``all`` is SGLang's default, and a drafter shares no tensor."""
    if request.selector == "all":
        request.selector = "target"
    return update(manager, request)


def answered(load: Callable, updater: Any, *args: Any, **kwargs: Any) -> tuple[bool, str]:
    """Around a runner's update with some tensors: one that fails is answered, not raised.

    Tensors of the same call written before the failure stay, as under SGLang.
    """
    try:
        return load(updater, *args, **kwargs)
    except Exception as error:
        logger.exception("new weights were not loaded")
        return False, f"The weights were not updated: {type(error).__name__}: {error}"


def all_or_nothing(load: Callable, updater: Any, *args: Any, **kwargs: Any) -> tuple[bool, str]:
    """Around a runner's update with all weights: one that fails is answered, and leaves the weights as they were.

    Keeps a copy of the weights in the host's memory meanwhile.
    """
    before = KeptWeights(updater.get_model())
    success, message = answered(load, updater, *args, **kwargs)
    if not success:
        before.put_back()
    return success, message


def load_from_disk(load: Callable, updater: Any, model_path: str, *args: Any, **kwargs: Any) -> tuple[bool, str]:
    """Around a runner's update from a folder or a repository; a folder is looked at before anything is written."""
    config = updater.model_config
    served = config.model_path
    tied = getattr(config.hf_config, "tie_word_embeddings", False)
    unfit = what_is_unfit(Path(served), Path(model_path), {"lm_head.weight"} if tied else set())
    if unfit:
        return False, f"The weights were not updated: {unfit}"
    success, message = all_or_nothing(load, updater, model_path, *args, **kwargs)
    if not success:
        updater.model_config.model_path = served
    return success, message


def what_is_unfit(served: Path, offered: Path, optional: set[str]) -> str:
    """Why ``offered`` cannot follow ``served``, or nothing; also nothing where one is no folder of safetensors.

    Args:
        optional: names that ``offered`` may lack.
    """
    expected = {tensor.name: tensor.shape for tensor in read_folder(served)[0]}
    tensors, problems = read_folder(offered)
    if not expected or not tensors:
        return ""
    if problems:
        return str(problems[0])
    found = {tensor.name: tensor.shape for tensor in tensors}
    for name, shape in expected.items():
        if name not in found and name not in optional:
            return f"{offered} lacks {name}, which {served} has; save the whole model there"
        if found.get(name, shape) != shape:
            return f"{name} in {offered} has shape {list(found[name])}, expected {list(shape)} as in {served}"
    return ""


class KeptWeights:
    """A model's parameters and buffers with a copy of their contents in the host's memory."""

    def __init__(self, model: torch.nn.Module) -> None:
        places: list[tuple[dict[str, Any], str, torch.Tensor]] = [
            (table, name, tensor)
            for module in model.modules()
            for table in (module._parameters, module._buffers)
            for name, tensor in table.items()
            if tensor is not None
        ]
        self._places = places
        tensors = {id(tensor): tensor for _, _, tensor in places}
        self._kept = [(tensor, tensor.data, tensor.detach().to("cpu", copy=True)) for tensor in tensors.values()]

    @torch.no_grad()
    def put_back(self) -> None:
        """Into the very tensors, which graphs and heads refer to."""
        for table, name, tensor in self._places:
            table[name] = tensor
        for tensor, data, content in self._kept:
            tensor.data = data
            tensor.copy_(content)

"""How the processes of one run share its training: all have what is trained, each has its share of a batch's rows."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from factorlm.backbones.encoder import TextEncoder
from factorlm.backbones.prompting import scorer_in
from factorlm.errors import UserError
from factorlm.models.prompted import Prompted
from factorlm.models.recommender import Recommender


class Replicated(DDPStrategy):
    """Distributed data parallel over what is trained.

    Frozen weights and buffers, read from the same files by each process, are not sent around. A step may leave
    parameters without a gradient, as those of an encoder that met no history.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(find_unused_parameters=True, **kwargs)

    def configure_ddp(self) -> None:
        """Wrap the module."""
        module = self.lightning_module
        assert module is not None
        frozen = [name for name, value in module.named_parameters() if not value.requires_grad]
        fixed = frozen + [name for name, _ in module.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, fixed)
        super().configure_ddp()

    def _get_process_group_backend(self) -> str:
        """Metrics are gathered on the CPU, gradients where they are."""
        return "gloo" if self.root_device.type == "cpu" else f"cpu:gloo,{self.root_device.type}:nccl"


class Sharded(Replicated):
    """`Replicated`, with the frozen weights of each layer of a text encoder divided over the processes.

    A layer's weights are put together while it runs. Y. Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded
    Data Parallel, VLDB 2023, in its second version, `torch.distributed.fsdp.fully_shard`.
    """

    def model_to_device(self) -> None:
        """Divide before anything is moved, so that no device ever holds all layers."""
        assert self.lightning_module is not None
        divide(self.lightning_module, self.root_device.type)
        super().model_to_device()


def divide(module: nn.Module, device_type: str) -> None:
    """Divide the frozen weights of each layer of the text encoders in a module over all processes, in place."""
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for encoder in [part for part in module.modules() if isinstance(part, TextEncoder)]:
        trained = {value for value in encoder.parameters() if value.requires_grad}
        for layer in encoder.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)


def make_strategy(name: str, model: Recommender | Prompted) -> DDPStrategy:
    """The strategy of a name, for a model.

    Raises:
        UserError: there is none of that name, or it does not fit the model.
    """
    if name in ("auto", "ddp"):
        return Replicated()
    if name != "fsdp":
        raise UserError(f"trainer.strategy={name}: for several devices it must be ddp or fsdp")
    # processes would ask for a layer at different times
    if isinstance(model, Prompted) or scorer_in(model) is not None or model.encoder is not None:
        raise UserError("trainer.strategy=fsdp: prompts and history encoders are not divided: set ddp")
    if not any(isinstance(part, TextEncoder) for part in model.modules()):
        raise UserError("trainer.strategy=fsdp divides a language model with an adapter, and there is none: set ddp")
    return Sharded()

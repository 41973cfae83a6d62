"""What a training runs on: one GPU for each rank (nccl), or the CPU (gloo).

Megatron-core takes a GPU for granted. Without one, `prepare` leads what it asks of ``torch.cuda`` to the
CPU: the current device, streams and random-number states, literal ``device="cuda"`` arguments. Nothing of
this is done, and nothing patched, where there is a GPU.

Import this module before any other that imports megatron.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault(
        "TORCHDYNAMO_DISABLE", "1"
    )  # compiling Megatron's small fused functions takes longer than they do

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

Device = Literal["cpu", "cuda"]

_CPU = torch.device("cpu")


@functools.cache
def prepare() -> Device:
    """Make Megatron-core usable in this process; again and again costs nothing."""
    if torch.cuda.is_available():
        return "cuda"
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda *_, **__: None
    _lead_random_states()
    _lead_streams()
    mode: Any = _OnCpu()
    mode.__enter__()  # for good
    _lead_megatron()
    return "cpu"


def backend() -> str:
    """The communication library of `torch.distributed` for this platform."""
    return "nccl" if prepare() == "cuda" else "gloo"


_LED = frozenset(
    (torch.Tensor.cuda, torch.Tensor.pin_memory, torch.Tensor.record_stream, torch.Tensor.type, torch.Tensor.to)
)


class _OnCpu(TorchFunctionMode):
    """Takes a literal "cuda" in any call of torch for the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _LED and not (kwargs and ("device" in kwargs or "pin_memory" in kwargs)):
            return func(*args, **kwargs) if kwargs else func(*args)  # every operation comes by here
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.record_stream:
            return None
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:  # clipping asks for the name of a GPU's type
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        if func is torch.Tensor.to:
            args = (args[0], *(_CPU if _is_cuda(argument) else argument for argument in args[1:]))
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.split(":")[0] == "cuda"


class _NoStream:
    """Stands for a stream or an event: on the CPU everything happens in order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None: ...
    def wait_event(self, *_: Any) -> None: ...
    def wait(self, *_: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, *_: Any) -> _NoStream:
        return self

    def query(self) -> bool:
        return True


def _lead_streams() -> None:
    stream = _NoStream()
    cuda: Any = torch.cuda
    cuda.Stream = cuda.Event = _NoStream
    cuda.current_stream = cuda.default_stream = lambda *_: stream
    cuda.stream = lambda _: contextlib.nullcontext()


def _lead_random_states() -> None:
    cuda: Any = torch.cuda
    cuda.manual_seed = torch.manual_seed
    cuda.get_rng_state = cuda.random.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.default_generators = {_CPU: torch.default_generator}


def _lead_megatron() -> None:
    """What no function of torch can lead: three places in Megatron-core 0.16.1."""
    import megatron.core.tensor_parallel.random as random
    import megatron.core.transformer.moe.moe_utils as moe_utils

    random._lazy_call = lambda call, **_: call()
    if not hasattr(moe_utils, "te_general_gemm"):  # a name that is only defined with TransformerEngine
        moe_utils.te_general_gemm = None
    exchange: Callable[..., Any] = dist.all_to_all_single

    @functools.wraps(exchange)
    def all_to_all_single(
        output: torch.Tensor,
        given: torch.Tensor,
        output_split_sizes: Any = None,
        input_split_sizes: Any = None,
        **options: Any,
    ) -> Any:
        # Megatron turns sizes into lists only as it moves them off a GPU
        both = (output_split_sizes, input_split_sizes)
        sizes = [size.tolist() if isinstance(size, torch.Tensor) else size for size in both]
        return exchange(output, given, *sizes, **options)

    dist.all_to_all_single = all_to_all_single  # type: ignore[assignment]

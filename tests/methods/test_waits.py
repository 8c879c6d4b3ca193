"""A step asks the device for nothing: whoever waits for a number leaves a GPU idle until the next kernel is sent.

Held on tensors without values (torch's FakeTensorMode), where there is nothing to read and nothing to copy; so it needs no GPU. On one,
`tests/gpu/check.py --only syncs` tells where a whole run waits.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from contray.checking.steps import batch_of, begun, clock_of, small
from contray.config.registry import method_names
from contray.methods._base import Batch, Method
from contray.model import optim
from contray.model.chunks import divide
from contray.model.gradients import Gradients
from contray.training.finite import Finite
from contray.training.step import forward_backward

READ = (DataDependentOutputException, DynamicOutputShapeException)
WAITS = {  # once in a step each, and why
    "cae": "whether its tokens were found already",
    "dinov2": "how many patches are hidden in all, whose scores alone are made",
    "ibot": "how many patches are hidden in all, whose scores alone are kept",
    "ijepa": "the sides of its blocks, and the smallest context, which are shapes",
}
OPTIMISERS = ("sgd", "adamw", "lars", "larc")


class Copies(TorchDispatchMode):
    """Notes what is copied from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        places = {each.device.type for each in (*args, out) if isinstance(each, Tensor)}
        if len(places) > 1 and "copy" in str(func):
            frame = [each for each in traceback.extract_stack()[:-1] if "/torch/" not in each.filename][-1]
            self.found.append(f"{frame.filename}:{frame.lineno}: {frame.line}")
        return out


@contextmanager
def without_values(name: str, device: str, **keys: Any) -> Iterator[tuple[Any, Method, Batch]]:
    """A method and a batch of which there are shapes alone, as if on the device."""
    config = small(name, "digits", "fp32").replace(keys)
    method, batch = begun(config), batch_of(config, 0)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):

            def put(x: Tensor) -> Tensor:
                return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)

            method._apply(put)
            batch.views = {key: put(view) for key, view in batch.views.items()}
            batch.index, batch.slot = put(batch.index), put(batch.slot)
            yield config, method, batch
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def whole_step(config: Any, method: Method, batch: Batch) -> None:
    params = [p for p in method.parameters() if p.requires_grad]
    optimizer, average, finite = optim.build(config, method), optim.Average(method), Finite(torch.device("cpu"))
    clock, chunks = clock_of(0), divide(method, batch.size, batch.groups, 0, 1, 0)
    optim.set_schedules(optimizer, config, clock)
    reps, out = forward_backward(config, method, batch, clock, chunks, Gradients(method))
    norm = optim.clip_gradients(config.optim, params)
    method.after_backward(clock)
    optimizer.step()
    average.move(clock)
    with torch.no_grad():
        method.update(reps, batch, clock)
    finite.see(1, norm, out["loss"])


@pytest.mark.parametrize("name", method_names())
def test_no_number_is_read_in_a_step(name: str) -> None:
    with without_values(name, "cpu") as step:
        if name in WAITS:
            with pytest.raises(READ):
                whole_step(*step)
        else:
            whole_step(*step)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_no_optimiser_reads_a_number(optimiser: str) -> None:
    with without_values("simclr", "cpu", **{"optim.name": optimiser, "optim.clip": 1.0}) as step:
        whole_step(*step)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no other device")
@pytest.mark.parametrize("name", sorted({*method_names()} - {*WAITS, "cpc_sequence"}))  # whose GRU asks the driver
def test_nothing_is_copied_to_the_device_in_a_step(name: str) -> None:
    with without_values(name, "cuda") as (_, method, batch):
        for _ in range(1 + (name == "distill")):  # whose teacher moves there once
            with Copies() as copies, batch.norm("blocks"):
                method.loss(method.represent(batch, clock_of(0)), batch, clock_of(0))
        assert not copies.found


def test_what_waits_is_found() -> None:
    """Both tests above can fail."""
    with without_values("simclr", "cpu") as (config, method, batch):
        method.update = lambda *_: batch.slot.sum().item()  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(READ):
            whole_step(config, method, batch)
    if torch.backends.cuda.is_built():
        with without_values("simclr", "cuda") as (_, _, batch), Copies() as copies:
            batch.slot.new_tensor([3])
        assert copies.found

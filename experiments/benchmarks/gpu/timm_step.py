"""timm's ResNet-50 in PyTorch: a training step of the same batch, compiled, channels last, bfloat16.

The step does what ours does: uint8 images in, flips, cross-entropy, SGD with momentum. Parameters stay in float32;
autocast computes in bfloat16.
"""

import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import timing
from experiments.benchmarks.candidates import reason
from experiments.benchmarks.gpu.settings import Setting

_STEPS = 5  # between two readings of the clock


def run(setting: Setting) -> None:
    """Write a row for the network run eagerly, which is ready early, then for the compiled one."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the card is PyTorch's
    try:
        import timm
        import torch
    except Exception as error:  # versions that do not fit raise various errors
        result = setting.record("timm.json", not_measured=reason(error))
        result.add("rows", {"label": "timm resnet50", "not_measured": reason(error)})
        print(reason(error))
        return
    device = setting.pick("cuda", "cpu")
    result = setting.record(
        "timm.json",
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        pytorch={"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "timm": timm.__version__},
        rows=[],
    )
    torch.backends.cudnn.benchmark = True
    batch, size = setting.pick((256, 224), (2, 32))
    name = setting.pick("resnet50", "resnet18")
    for label, compiled in (("eager", False), ("compiled", True)):
        row: dict[str, Any] = {"label": f"timm {name} {label}", "batch": batch, "image_size": size}
        try:
            started = time.monotonic()
            step = training_step(timm.create_model(name), batch, size, device, compiled=compiled)
            step(1)
            row["seconds_to_first_step"] = round(time.monotonic() - started, 1)
            step(3)
            times = timing.take_turns(
                {label: timing.several(step, _STEPS)}, rounds=7, seconds=min(10.0, setting.left() / 4)
            )[label]
            milliseconds = timing.median(times) / _STEPS
            row |= {
                "train_ms": round(milliseconds, 3),
                "train_extremes_ms": [round(f(times) / _STEPS, 3) for f in (min, max)],
                "train_images_per_second": round(1e3 * batch / milliseconds, 1),
            }
            if device == "cuda":
                row["peak_bytes"] = torch.cuda.max_memory_allocated()
        except Exception as error:  # the compiler raises types of its own
            row["not_measured"] = reason(error)
        result.add("rows", row)
        print(row, flush=True)


def training_step(model: Any, batch: int, size: int, device: str, *, compiled: bool) -> Callable[[int], None]:
    """Return the function that makes a number of steps of SGD on random images and waits for the last."""
    import torch

    model = model.to(device).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=device == "cuda" or None
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), generator=generator, dtype=torch.uint8).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), generator=generator).to(device)

    def loss_of(images: Any, labels: Any) -> Any:
        turned = torch.rand(images.shape[0], device=images.device) < 0.5
        images = torch.where(turned[:, None, None, None], images.flip(3), images)
        pixels = (images.to(torch.bfloat16) / 255 - 0.5) / 0.25
        with torch.autocast(device, dtype=torch.bfloat16):
            return torch.nn.functional.cross_entropy(model(pixels), labels)

    loss_and_graph = torch.compile(loss_of) if compiled else loss_of

    def steps(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            loss_and_graph(images, labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return steps

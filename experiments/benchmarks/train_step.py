"""Times of a training step and of inference for ResNet-50 with attention modules, as ratios to ResNet-50.

    python -m experiments.benchmarks.train_step                                a small batch, the device that JAX finds
    python -m experiments.benchmarks.train_step --device gpu --batch 256       bfloat16, 224², images/s
    python -m experiments.benchmarks.train_step --models resnet50 aa_resnet50_025 --image_size 128

The columns of the AA paper's Table 2 (Bello et al., 2019: TensorFlow, one V100, batch 128) stand beside ours. A step is
the library's own: uint8 images in, flips, cross-entropy, SGD with momentum, state donated. All models are compiled
first and then take turns, up and down the list; ratios are those of medians. Also given are the temporary memory that
the compiler reports, the FLOPs that the network needs (three times the forward pass for a step), and the fraction of
the device's peak that this makes, where that is known.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import devices, figures, results, steps, timing

# Table 2's AA has kappa = upsilon = 0.25; `aa_resnet50` is that of Table 3.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("resnet50", {}),
    "se_resnet50": ("se_resnet50", {}),
    "ge_resnet50": ("ge_resnet50", {}),
    "bam_resnet50": ("bam_resnet50", {}),
    "cbam_resnet50": ("cbam_resnet50", {}),
    "gala_resnet50": ("gala_resnet50", {}),
    "aa_resnet50_025": ("aa_resnet50", {"kappa": 0.25, "upsilon": 0.25}),
    "aa_resnet50_025_paper": ("aa_resnet50", {"kappa": 0.25, "upsilon": 0.25, "implementation": "paper"}),
    "aa_resnet50_025_folded": ("aa_resnet50", {"kappa": 0.25, "upsilon": 0.25, "implementation": "folded"}),
    "aa_resnet50": ("aa_resnet50", {}),
}
# (inference, training step) as printed: "+12%" is 1.12.
PAPER = {
    "resnet50": (1.0, 1.0),
    "se_resnet50": (1.12, 1.92),
    "bam_resnet50": (1.19, 1.43),
    "cbam_resnet50": (1.56, 2.32),
    "gala_resnet50": (1.86, 2.33),
    "aa_resnet50_025": (1.29, 1.25),
}


def main() -> None:
    """Compile and time every model, and store and draw the results."""
    arguments = parse()
    devices.use(arguments.device)
    on_cpu = jax.default_backend() == "cpu"
    arguments.batch = arguments.batch or (4 if on_cpu else 128)
    arguments.dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    programs: dict[tuple[str, str], timing.Program] = {}
    counted = {}
    for label in arguments.models:
        programs[label, "infer"], programs[label, "train"], counted[label] = compiled(label, arguments)
        print(f"compiled {label}", flush=True)
    times = timing.take_turns(programs, rounds=arguments.rounds, seconds=arguments.seconds)
    rows = [row(label, times, counted[label], arguments) for label in arguments.models]
    print(table(rows))
    setting = {name: getattr(arguments, name) for name in ("batch", "image_size", "dtype", "rounds")}
    result = {**results.origin("train_step", sys.argv[1:]), **setting, "rows": rows}
    output = arguments.output or results.file_here("train_step")
    results.store(result, output)
    figures.train_step(result, output.with_suffix(".png"))


def parse() -> argparse.Namespace:
    """Return the command line's arguments; ResNet-50 is always one of the models."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--device", choices=devices.KINDS, default="auto")
    parser.add_argument("--batch", type=int, help="4 on a CPU, else 128")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=600, help="no new round after so long")
    arguments = parser.parse_args()
    if "resnet50" not in arguments.models:
        arguments.models.insert(0, "resnet50")  # the ratios are to it
    return arguments


def compiled(label: str, arguments: argparse.Namespace) -> tuple[timing.Program, timing.Program, dict[str, Any]]:
    """Return inference and training step of one network, ready to run, and their counts."""
    name, options = MODELS[label]
    prepared = steps.prepare(
        name, options, batch=arguments.batch, image_size=arguments.image_size, dtype=arguments.dtype
    )
    step, infer = prepared.lower_train().compile(), prepared.lower_infer().compile()
    # The step donates the originals.
    kept = jax.tree.map(jnp.copy, (prepared.state.params, prepared.state.batch_stats))
    summary = prepared.counted()
    counts = {
        "params": summary.params,
        "flops_per_image": summary.flops,
        "train_temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        "infer_temporary_bytes": infer.memory_analysis().temp_size_in_bytes,
    }
    return timing.jax_program(infer, *kept, prepared.batch["image"]), prepared.running(step), counts


def row(label: str, times: Any, counts: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds, ratios to ResNet-50 with their extremes over the rounds, and the paper's ratios."""
    found: dict[str, Any] = {"label": label, "model": MODELS[label][0], "options": MODELS[label][1]}
    peak = devices.peak() if arguments.dtype == "bfloat16" else None
    for index, key in enumerate(("infer", "train")):
        own, plain = times[label, key], times["resnet50", key]
        by_round = [a / b for a, b in zip(own, plain, strict=True)]
        milliseconds = timing.median(own)
        found[f"{key}_ms"] = milliseconds
        found[f"{key}_ratio"] = round(milliseconds / timing.median(plain), 3)
        found[f"{key}_ratio_of_rounds"] = [round(min(by_round), 3), round(max(by_round), 3)]
        found[f"paper_{key}_ratio"] = PAPER[label][index] if label in PAPER else None
        found[f"{key}_images_per_second"] = round(1e3 * arguments.batch / milliseconds, 2)
        if peak is not None:
            operations = (1, 3)[index] * arguments.batch * counts["flops_per_image"]
            found[f"{key}_fraction_of_peak_flops"] = round(operations / (milliseconds / 1e3) / peak.flops, 4)
    return found | counts


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [
        f"{'':<24}{'train ms':>10}{'ratio':>7}{'paper':>7}{'infer ms':>10}{'ratio':>7}{'paper':>7}{'images/s':>10}"
    ]
    for each in rows:
        line = f"{each['label']:<24}"
        for key in ("train", "infer"):
            line += f"{each[f'{key}_ms']:>10.1f}{each[f'{key}_ratio']:>7.2f}{each[f'paper_{key}_ratio'] or '-':>7}"
        lines.append(line + f"{each['train_images_per_second']:>10.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

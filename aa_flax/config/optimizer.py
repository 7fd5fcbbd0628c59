"""Config fields of the optimiser, its learning rate and its regularisation."""

import itertools
from dataclasses import dataclass
from typing import Literal

from aa_flax.config.fields import field


def _increase(epochs: tuple[float, ...]) -> bool:
    return all(later > earlier for earlier, later in itertools.pairwise((0.0, *epochs)))


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser; its defaults are the recipe of Bello et al. (2019), section 4.1, for augmented networks."""

    name: Literal["sgd", "rmsprop", "adamw", "lamb"] = field("sgd", "name of the optimiser")
    learning_rate: float = field(0.2, "peak of the learning rate", at_least=0)
    schedule: Literal["cosine", "constant", "steps", "exponential", "polynomial"] = field(
        "cosine", "course of the learning rate after a linear warm-up"
    )
    warmup: float = field(0.05, "part of the run that the warm-up takes", at_least=0, below=1)
    warmup_steps: int = field(0, "steps that the warm-up takes, instead of warmup, which is then 0", at_least=0)
    warmup_start: float = field(
        0.0, "part of the learning rate that the warm-up starts at; 0.001 in many detectors", at_least=0, at_most=1
    )
    final_learning_rate: float = field(
        0.0, 'learning rate at the end of the run, with "cosine" and "polynomial"', at_least=0
    )
    polynomial_power: float = field(1.0, 'power of "polynomial"; 1 is a straight line', above=0)
    decay_factor: float = field(
        0.1, 'what each drop of "steps" or "exponential" multiplies by; MnasNet has 0.97', above=0, at_most=1
    )
    decay_at_epochs: tuple[float, ...] = field(
        (30.0, 60.0, 80.0, 90.0),
        'epochs at which "steps" drops, from the start of the run',
        accepts=("above 0 and increase", _increase),
    )
    decay_every_epochs: float = field(
        2.4, 'epochs between drops of "exponential", the first this long after the start of the run', above=0
    )
    momentum: float = field(0.9, 'decay of the sum of gradients, with "sgd" and "rmsprop"', at_least=0, below=1)
    nesterov: bool = field(False, 'take Nesterov\'s momentum, with "sgd"')
    rms_decay: float = field(0.9, 'decay of the mean square, with "rmsprop"', at_least=0, below=1)
    epsilon: float = field(1e-3, 'added to the mean square inside the root, with "rmsprop"', above=0)
    beta1: float = field(0.9, 'decay of the mean gradient, with "adamw" and "lamb"', at_least=0, below=1)
    beta2: float = field(0.999, 'decay of the mean square, with "adamw" and "lamb"', at_least=0, below=1)
    adam_epsilon: float = field(1e-6, 'added to the root of the mean square, with "adamw" and "lamb"', above=0)
    weight_decay: float = field(5e-4, "strength of the decay of weights", at_least=0)
    weight_decay_mode: Literal["l2", "decoupled"] = field(
        "l2", "where the decay goes: into the gradient, or beside it, times the learning rate"
    )
    weight_decay_exclude: tuple[str, ...] = field(
        ("bias", "scale", "rel_height", "rel_width", "gamma", "gamma1", "gamma2", "tokens", "gate_scale"),
        "ends of the dotted names of parameters that do not decay",
    )
    layer_decay: float = field(
        1.0,
        "factor of the learning rate of each block of the backbone, relative to the block after it; 1 is off",
        above=0,
        at_most=1,
    )
    clip_norm: float = field(0.0, "largest global norm of the gradient; 0 is off", at_least=0)
    accumulation_steps: int = field(1, "micro-batches that a batch is cut into", at_least=1)
    ema_decay: float = field(
        0.0,
        "decay of the moving average of parameters and batch statistics, which is evaluated; 0 is off",
        at_least=0,
        below=1,
        accepts=("less than 1 by 1e-6 or more, an average over a million steps", lambda decay: 1 - decay >= 1e-6),
    )

"""Compile training steps for an absent TPU slice and print their memory and collectives, one JSON line each.

Usage: compile_sharded.py '[{"model": {...}, "parallel": {...}, ...}, ...]', configs as `resolve` takes them.
It is a process of its own, because libtpu serves one process at a time.
"""

import json
import sys

from aa_flax.analysis.tpu_compiler import prepare
from aa_flax.tasks import make_task

prepare()

import jax  # noqa: E402
from flax import nnx  # noqa: E402

from aa_flax.analysis.hlo import Program, shape_bytes  # noqa: E402
from aa_flax.analysis.hlo_traffic import collectives  # noqa: E402
from aa_flax.analysis.programs import lower, of_config  # noqa: E402
from aa_flax.analysis.slices import find_slice  # noqa: E402
from aa_flax.analysis.tpu_compiler import mesh_of  # noqa: E402
from aa_flax.models.functional import functional  # noqa: E402
from aa_flax.training import resolve  # noqa: E402
from aa_flax.training.initial import build_model  # noqa: E402

if __name__ == "__main__":
    mesh = mesh_of(find_slice("v5e:2x2"))
    for tree in json.loads(sys.argv[1]):
        subject = of_config(resolve(tree))
        lowered = lower(subject, "train", mesh)
        compiled = lowered.program.compile()
        program = Program(compiled.as_text())
        found = collectives(program, mesh.devices.size)
        _, params, _ = functional(
            nnx.eval_shape(
                lambda subject=subject: build_model(subject.config, make_task(subject.config, subject.preprocessing))
            )
        )
        sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)]
        largest: dict[str, int] = {}
        for site in program.sites():
            kind = site.instruction.opcode.removesuffix("-start")
            largest[kind] = max(largest.get(kind, 0), shape_bytes(site.instruction.shape))
        result = {
            "calls": {collective.kind: collective.calls for collective in found},
            "largest": {collective.kind: largest[collective.kind] for collective in found},
            "params": sum(sizes),
            "widest": max(sizes),
            "state": sum((lowered.params_bytes, lowered.optimizer_bytes, lowered.ema_bytes, lowered.batch_stats_bytes)),
            "temporary": compiled.memory_analysis().temp_size_in_bytes,
        }
        print(json.dumps(result), flush=True)

"""Compile proposals for an absent TPU; print the bytes of the program and those of the anchors, padded.

Run by test_tpu_compilation.py in a process of its own, because libtpu serves one process at a time.
"""

import json

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from aa_flax.ops import AnchorOptions, anchor_boxes, top_proposals

SIDE = 1024

if __name__ == "__main__":
    options = AnchorOptions(num_scales=1, base_size=8)
    anchors = anchor_boxes([(SIDE // 8, SIDE // 8)], (SIDE, SIDE), options)
    number = len(anchors)
    found = count(
        "v5e:1x1",
        lambda objectness, deltas, sizes: top_proposals(
            objectness, deltas, anchors, level_anchors=[number], sizes=sizes, per_level=64, most=16
        ),
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, number), (1, number, 4), (1, 2))),
    )
    code = found.compiled.memory_analysis().generated_code_size_in_bytes
    print(json.dumps({"code": code, "padded": number * 128 * 4}))

"""The authors' PatchConvNet in NumPy, written from the names and shapes in its state dict.

This file does not use aa_flax. As in the authors' code, maps are NCHW in the stem and the convolutions, and of shape
[b, locations, channels] between the blocks. All values are float64.
"""

import math

import numpy as np


def shapes(width, depth, classes, *, per_class=False, in_channels=3):
    """Return the shape of every array of the state dict, by key."""
    d, r = width, round(width / 4)
    found = {}
    widths = (in_channels, d // 8, d // 4, d // 2, d)
    for i in range(4):
        found[f"patch_embed.proj.{2 * i}.0.weight"] = (widths[i + 1], widths[i], 3, 3)
    for i in range(depth):
        found |= {
            f"blocks.{i}.gamma_1": (d,),
            f"blocks.{i}.norm1.weight": (d,),
            f"blocks.{i}.norm1.bias": (d,),
            f"blocks.{i}.attn.qkv_pos.0.weight": (d, d, 1, 1),
            f"blocks.{i}.attn.qkv_pos.0.bias": (d,),
            f"blocks.{i}.attn.qkv_pos.2.weight": (d, 1, 3, 3),
            f"blocks.{i}.attn.qkv_pos.2.bias": (d,),
            f"blocks.{i}.attn.qkv_pos.4.conv_reduce.weight": (r, d, 1, 1),
            f"blocks.{i}.attn.qkv_pos.4.conv_reduce.bias": (r,),
            f"blocks.{i}.attn.qkv_pos.4.conv_expand.weight": (d, r, 1, 1),
            f"blocks.{i}.attn.qkv_pos.4.conv_expand.bias": (d,),
            f"blocks.{i}.attn.qkv_pos.5.weight": (d, d, 1, 1),
            f"blocks.{i}.attn.qkv_pos.5.bias": (d,),
        }
    last = "blocks_token_only.0"
    found["cls_token"] = (1, classes if per_class else 1, d)
    found |= {f"{last}.gamma_{k}": (d,) for k in (1, 2)}
    for norm in (f"{last}.norm1", f"{last}.norm2", "norm"):
        found |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    for part in "q", "k", "v", "proj":
        found |= {f"{last}.attn.{part}.weight": (d, d), f"{last}.attn.{part}.bias": (d,)}
    found |= {f"{last}.mlp.fc1.weight": (3 * d, d), f"{last}.mlp.fc1.bias": (3 * d,)}
    found |= {f"{last}.mlp.fc2.weight": (d, 3 * d), f"{last}.mlp.fc2.bias": (d,)}
    if per_class:
        for i in range(classes):
            found |= {f"head.{i}.weight": (1, d), f"head.{i}.bias": (1,)}
    else:
        found |= {"head.weight": (classes, d), "head.bias": (classes,)}
    return found


def random_state_dict(rng, *arguments, **options):
    """Return random weights with which every part of the network affects the logits; layer scales from 0.2 to 0.6.

    With the authors' initial layer scale of 1e-6 an error in a block would not show.
    """
    state = {}
    for key, shape in shapes(*arguments, **options).items():
        if "gamma" in key:
            value = rng.uniform(0.2, 0.6, shape)
        elif "norm" in key and key.endswith("weight"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            value = rng.normal(0, 0.3, shape)
        else:
            gain = 5 if key.startswith("patch_embed") else 1.5
            value = rng.normal(size=shape) * gain / math.sqrt(math.prod(shape[1:]))
        state[key] = value.astype(np.float32)
    return state


def logits(state, images):
    """Return the logits [b, classes] of images [b, c, h, w]."""
    p = {key: np.asarray(value, np.float64) for key, value in state.items()}
    x = np.asarray(images, np.float64)
    for i in range(4):
        x = _conv(x, p[f"patch_embed.proj.{2 * i}.0.weight"], stride=2)
        x = _gelu(x) if i < 3 else x
    b, c, h, w = x.shape
    x = x.reshape(b, c, h * w).transpose(0, 2, 1)
    for i in range(1 + max(int(key.split(".")[1]) for key in p if key.startswith("blocks."))):
        block = {key.removeprefix(f"blocks.{i}."): v for key, v in p.items() if key.startswith(f"blocks.{i}.")}
        y = _layer_norm(x, block["norm1.weight"], block["norm1.bias"])
        y = _branch(block, y.transpose(0, 2, 1).reshape(b, c, h, w)).reshape(b, c, h * w).transpose(0, 2, 1)
        x = x + block["gamma_1"] * y
    tokens = np.broadcast_to(p["cls_token"], (b, *p["cls_token"].shape[1:]))
    tokens = _aggregate(
        {key.removeprefix("blocks_token_only.0."): v for key, v in p.items() if "token_only" in key}, tokens, x
    )
    tokens = _layer_norm(tokens, p["norm.weight"], p["norm.bias"])
    if "head.weight" in p:
        return tokens[:, 0] @ p["head.weight"].T + p["head.bias"]
    each = [tokens[:, k] @ p[f"head.{k}.weight"].T + p[f"head.{k}.bias"] for k in range(tokens.shape[1])]
    return np.concatenate(each, 1)


def _branch(block, x):
    x = _gelu(_pointwise(x, block, "attn.qkv_pos.0"))
    x = _conv(x, block["attn.qkv_pos.2.weight"], stride=1) + block["attn.qkv_pos.2.bias"][:, None, None]
    x = _gelu(x)
    gate = np.maximum(_pointwise(x.mean((2, 3), keepdims=True), block, "attn.qkv_pos.4.conv_reduce"), 0)
    x = x / (1 + np.exp(-_pointwise(gate, block, "attn.qkv_pos.4.conv_expand")))
    return _pointwise(x, block, "attn.qkv_pos.5")


def _aggregate(p, tokens, x):
    """Return the tokens after attention: a single token attends to itself and the map, several to the map alone."""
    keys = x if tokens.shape[1] > 1 else np.concatenate([tokens, x], 1)
    keys = _layer_norm(keys, p["norm1.weight"], p["norm1.bias"])
    queries = _layer_norm(tokens, p["norm1.weight"], p["norm1.bias"])
    q, k, v = (_linear(a, p, f"attn.{name}") for a, name in ((queries, "q"), (keys, "k"), (keys, "v")))
    weights = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    tokens = tokens + p["gamma_1"] * _linear(weights @ v, p, "attn.proj")
    hidden = _gelu(_linear(_layer_norm(tokens, p["norm2.weight"], p["norm2.bias"]), p, "mlp.fc1"))
    return tokens + p["gamma_2"] * _linear(hidden, p, "mlp.fc2")


def _conv(x, weight, stride):
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    if weight.shape[1] == 1 and x.shape[1] > 1:
        return np.einsum("bchwij,cij->bchw", windows, weight[:, 0], optimize=True)
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)


def _pointwise(x, p, name):
    return np.einsum("bchw,oc->bohw", x, p[f"{name}.weight"][:, :, 0, 0]) + p[f"{name}.bias"][:, None, None]


def _linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _layer_norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * weight + bias


def _gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

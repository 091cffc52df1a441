"""Checkpoints as the authors' program writes them, and their network in plain functions, by the facts known of both."""

from collections import OrderedDict

import numpy as np
import torch
from torch.nn import functional

SCALES = ("20x", "10x", "5x")


def official_state(width=4, outputs=7, seed=0):
    """Random weights by the authors' names; every shape is written out here, none is taken from our network."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def layer(name, *shape, bias):
        fan_in = shape[1] * 9
        state[f"module.{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        state[f"module.{name}.bias"] = torch.randn(bias, generator=generator) * 0.1

    w = [width * 2**k for k in range(5)]
    for s in SCALES:
        for k, name in enumerate(("conv1dn", "conv2dn", "conv3dn", "conv4dn", "center")):
            layer(f"{name}_{s}.0", w[k], w[k - 1] if k else 3, 3, 3, bias=w[k])
            layer(f"{name}_{s}.2", w[k], w[k], 3, 3, bias=w[k])
        joined = {4: w[3] + w[2], 3: w[2] + w[1], 2: w[1] + w[0], 1: w[0]} if s == "20x" else dict.fromkeys(range(5), 0)
        for n in (4, 3, 2, 1):
            layer(f"convtrans{n}_{s}.0", w[n] + joined[n], w[n - 1], 3, 3, bias=w[n - 1])
            layer(f"conv{n}up_{s}.0", w[n - 1], 2 * w[n - 1], 3, 3, bias=w[n - 1])
            layer(f"conv{n}up_{s}.2", w[n - 1], w[n - 1], 3, 3, bias=w[n - 1])
    layer("final.0", width, width, 3, 3, bias=width)
    layer("final.2", outputs, width, 1, 1, bias=outputs)
    return state


def official_forward(state, image20, image10, image5):
    """The network as the facts describe it, in plain functions: logits (B, outputs, 256, 256)."""

    def conv(name, x, padding=1):
        return functional.conv2d(x, state[f"module.{name}.weight"], state[f"module.{name}.bias"], padding=padding)

    def block(name, x):
        return conv(f"{name}.2", conv(f"{name}.0", x).relu()).relu()

    def up(name, x):
        weight, bias = state[f"module.{name}.0.weight"], state[f"module.{name}.0.bias"]
        return functional.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1).relu()

    def encode(s, x):
        maps = [block(f"conv1dn_{s}", x)]
        for name in ("conv2dn", "conv3dn", "conv4dn", "center"):
            maps.append(block(f"{name}_{s}", functional.max_pool2d(maps[-1], 2)))
        return maps

    def decode(s, maps, joins):
        x, decoded = maps[4], {}
        for n in (4, 3, 2, 1):
            x = up(f"convtrans{n}_{s}", torch.cat([x, *joins[n]], 1))
            x = decoded[n - 1] = block(f"conv{n}up_{s}", torch.cat([maps[n - 1], x], 1))
        return decoded

    none = {n: [] for n in (1, 2, 3, 4)}
    d10 = decode("10x", encode("10x", image10), none)
    d5 = decode("5x", encode("5x", image5), none)
    joins = {
        4: [d10[3][..., 8:24, 8:24], d5[2][..., 24:40, 24:40]],
        3: [d10[2][..., 16:48, 16:48], d5[1][..., 48:80, 48:80]],
        2: [d10[1][..., 32:96, 32:96], d5[0][..., 96:160, 96:160]],
        1: [d10[0][..., 64:192, 64:192]],
    }
    x = decode("20x", encode("20x", image20), joins)[0]
    return conv("final.2", conv("final.0", x).relu(), padding=0)


def write_checkpoint(path, state, *, new_format=True, **changes):
    """A file as the authors' training writes it: weights, optimiser, schedule, and a NumPy number."""
    if isinstance(state, dict):
        state = OrderedDict(state)
        state._metadata = OrderedDict({"": {"version": 1}})  # torch's state dicts carry it along
    content = {
        "epoch": 2316880,
        "model_state": state,
        "optimizer_state": {
            "state": {0: {"momentum_buffer": torch.zeros(3)}},
            "param_groups": [{"lr": 5e-5, "momentum": 0.99, "weight_decay": 1e-4, "nesterov": False, "params": [0]}],
        },
        "scheduler_state": {"base_lrs": [5e-5], "last_epoch": 2316880},
        "best_iou": np.float64(0.625),
        **changes,
    }
    torch.save({k: v for k, v in content.items() if v is not None}, path, _use_new_zipfile_serialization=new_format)
    return path

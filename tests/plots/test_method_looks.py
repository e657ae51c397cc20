"""One color and shape a method, told apart by every kind of sight, on light and dark ground."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from plot_cases import arrays, nested, records, spec

from mu_jax import plots, transforms
from mu_jax.plots.looks import FAMILIAR, HUES, PLACES, SHAPES
from mu_jax.plots.theme import DARK, GRAY, LIGHT, theme

# What is left of linear red, green and blue without one kind of cones: Machado, Oliveira,
# Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009.
SIGHT = {
    "normal": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    c = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    low, high = sorted(XYZ[1] @ linear(color) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colors_are_told_apart_by_everyone_and_stand_out_from_the_ground(dark):
    grays = re.findall("#[0-9a-f]{6}", GRAY.to_dict()["expr"])
    colors = [pair[dark] for pair in HUES] + [grays[not dark]]
    assert all(contrast(color, DARK if dark else LIGHT) >= 3 for color in colors)
    for matrix in SIGHT.values():
        seen = [lab(np.array(matrix) @ linear(color)) for color in colors]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


def test_all_pairs_of_colors_and_shapes_differ():
    assert len({(k % len(HUES), k % len(SHAPES)) for k in range(PLACES)}) == PLACES == 56


def test_every_method_of_the_library_has_a_look_of_its_own():
    names = [name for name in transforms.__all__ if name.islower()]
    found = plots.looks(names)
    assert len(names) >= 35
    assert len({(str(look.color), look.shape) for look in found.values()}) == len(names)


def test_looks_do_not_depend_on_order_and_familiar_ones_on_nothing():
    names = ["b method", "ssd", "another", "scrub"]
    assert plots.looks(names) == plots.looks(names[::-1])
    assert plots.looks(names)["ssd"] == plots.looks(["ssd"])["ssd"]
    colors = [str(plots.looks([name])[name].color) for name in FAMILIAR[:7]]
    assert len(set(colors)) == 7
    few = plots.looks(["npo_sam", "npo_160", "npo_sam_160", "x", "y"])
    assert len({str(look.color) for look in few.values()}) == 5


def test_a_method_looks_alike_in_every_figure():
    seen = {}
    for name in ("tradeoff", "klom", "membership", "relearning", "drift", "run_time"):
        for encoded in nested(spec(name), "color"):
            if isinstance(encoded, dict) and encoded.get("field") == "row":
                scale = encoded["scale"]
                for row, color in zip(scale["domain"], scale["range"]):
                    seen.setdefault(row, set()).add(str(color))
    assert {"ssd", "retrain", "do nothing"} <= set(seen)
    assert all(len(colors) == 1 for colors in seen.values())
    assert "white" in str(seen["retrain"]) or "#ffffff" in str(seen["retrain"])


def test_a_row_left_out_leaves_the_looks_of_the_others():
    mine = [r for r in records() if r.method != "ssd"]
    assert len(mine) < len(records())
    names = sorted(arrays().examples)
    assert plots.looks(names)["ssd"] == plots.looks([*names, "constant"])["ssd"]


def test_the_theme_has_two_grounds_and_is_plain_json():
    light, dark = theme(), theme(dark=True)
    assert (light["background"], dark["background"]) == (LIGHT, DARK)
    assert light.keys() == dark.keys()
    for name in ("axis", "legend", "title"):
        ink = next(v for k, v in dark[name].items() if k.endswith("olor") and "grid" not in k)
        assert contrast(ink, DARK) >= 4.5

"""The same networks in PyTorch, for the ratios beside ours; skipped when torch is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


def version() -> str:
    """Version of torch, or that it is not there."""
    return torch.__version__ if AVAILABLE else "not installed"


def alternatives(name: str, inputs: np.ndarray, targets: np.ndarray) -> dict[str, Callable]:
    """A gradient, per-example squares by `torch.func.vmap`, and the batch-mean form by autograd."""
    torch.manual_seed(0)
    x = torch.from_numpy(inputs)
    if name == "cnn":
        x = x.permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(targets.astype(np.int64))
    net = _NETWORKS[name](inputs.shape).eval()
    params = {key: value.detach() for key, value in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def loss(params, x, y):
        logits = torch.func.functional_call(net, (params, buffers), (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def gradient():
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        return [p.grad for p in net.parameters()]

    def batch_mean():
        return [g.square() for g in gradient()]

    def squares():
        with torch.no_grad():
            return {k: g.square().sum(0) for k, g in per_example(params, x, y).items()}

    return {
        "PyTorch: gradient": _quiet(gradient),
        "PyTorch: SSD's squared batch mean": _quiet(batch_mean),
        "PyTorch: vmap(grad), squared": _quiet(squares),
    }


def _quiet(run: Callable[[], Any]) -> Callable[[], None]:
    """Run and return nothing: PyTorch on a CPU is done when it returns."""

    def silent() -> None:
        run()

    return silent


def _mlp(shape):
    width = shape[-1]
    return nn.Sequential(
        nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def _cnn(shape):
    layers: list[nn.Module] = []
    channels = shape[-1]
    for features in (32, 64, 128):
        layers += [nn.Conv2d(channels, features, 3, padding=1), nn.BatchNorm2d(features)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def _block(shape):
    width = shape[-1]

    class Block(nn.Module):
        """Pre-norm attention and perceptron, as in `benchmarks.importance.TransformerBlock`."""

        def __init__(self):
            super().__init__()
            self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 4, width // 4).unbind(2)
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / (width // 4) ** 0.5
            mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
            x = x + self.out(mixed.reshape(b, t, width))
            x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
            return self.head(self.norm3(x).mean(1))

    return Block()


_NETWORKS = {"mlp": _mlp, "cnn": _cnn, "block": _block}

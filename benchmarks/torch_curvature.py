"""Scores of the same small networks by kronfluence; skipped where it or torch is missing."""

from __future__ import annotations

import tempfile
from typing import Any

import jax
import numpy as np

try:
    import torch
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch import nn
    from torch.nn import functional
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


def scores(case: Any, damping: float, seed: int) -> np.ndarray:
    """Factors over all data and scores [n, T], from nothing, as its own scripts ask for them.

    Args:
      case: a `benchmarks.curvature.Trained`.
      damping: absolute.
      seed: of the drawn labels.
    """

    class Classification(Task):
        """Cross-entropy, and labels drawn from the model for the Fisher."""

        def compute_train_loss(self, batch, model, sample=False):
            logits, labels = model(batch[0]), batch[1]
            if sample:
                with torch.no_grad():
                    drawn = torch.multinomial(torch.softmax(logits.detach(), -1), 1)
                labels = drawn.flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    torch.manual_seed(seed)
    task = Classification()
    network = _network(case.name, case.model.params(case.variables))
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "scores",
            prepare_model(network, task),
            task,
            cpu=True,
            disable_tqdm=True,
            log_level=40,
            output_dir=folder,
        )
        analyzer.fit_all_factors(
            factors_name="ekfac",
            dataset=_dataset(case.data),
            per_device_batch_size=case.data.batch_size,
            factor_args=FactorArguments(strategy="ekfac"),
        )
        analyzer.compute_pairwise_scores(
            scores_name="pairs",
            factors_name="ekfac",
            query_dataset=_dataset(case.targets),
            train_dataset=_dataset(case.scored),
            per_device_query_batch_size=case.targets.num_examples,
            per_device_train_batch_size=case.data.batch_size,
            score_args=ScoreArguments(damping_factor=damping),
        )
        found = analyzer.load_pairwise_scores("pairs")["all_modules"]
    return found.numpy().T


def _dataset(data: Any) -> Any:
    images = np.asarray(data.inputs).transpose(0, 3, 1, 2).copy()
    labels = np.asarray(data.targets).astype(np.int64)
    return torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


def _network(name: str, params: Any) -> Any:
    """The network with the parameters of ours; one channel, so that flattening has one order."""
    arrays = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), params)
    if name == "mlp":
        layers = [nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)]
        own = [arrays["Dense_0"], arrays["Dense_1"]]
    else:
        layers = [
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        ]
        own = [arrays["Conv_0"], arrays["Conv_1"], arrays["Dense_0"]]
    with_weights = [layer for layer in layers if hasattr(layer, "weight")]
    with torch.no_grad():
        for layer, given in zip(with_weights, own, strict=True):
            kernel = given["kernel"]
            kernel = kernel.T if kernel.ndim == 2 else kernel.permute(3, 2, 0, 1)
            layer.weight.copy_(kernel)
            layer.bias.copy_(given["bias"])
    return nn.Sequential(*layers)

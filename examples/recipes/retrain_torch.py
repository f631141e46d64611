"""Trains a PyTorch network with the weights and soft labels that a run has learned.

    python examples/recipes/retrain_torch.py runs/digits/autodo-seed0 [WORKDIR ...]

Like retrain_sklearn.py, but with a small convolutional network. Its loss is PyTorch's
cross-entropy to soft labels, weighted. Needs PyTorch (`pip install torch`).
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from retrain_sklearn import Points, main

EPOCHS, BATCH_SIZE = 60, 64


def network(channels: int, num_classes: int) -> torch.nn.Module:
    """Returns three convolutions, average pooling to 2 x 2 and a linear head."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 64, num_classes),
    )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Converts uint8 [N, H, W, channels] to float [N, channels, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def fit(points: Points) -> Callable[[np.ndarray], np.ndarray]:
    """Returns images -> predicted classes."""
    torch.manual_seed(0)
    images, weights, soft_labels = (
        to_tensor(points.images),
        torch.tensor(points.weights, dtype=torch.float32),
        torch.tensor(points.soft_labels, dtype=torch.float32),
    )
    model = network(images.shape[1], soft_labels.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(BATCH_SIZE):
            losses = torch.nn.functional.cross_entropy(
                model(images[index]), soft_labels[index], reduction="none"
            )
            optimizer.zero_grad()
            (weights[index] * losses).mean().backward()
            optimizer.step()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(to_tensor(images)).argmax(dim=1).numpy()

    return predict


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} WORKDIR [WORKDIR ...]")
    main(sys.argv[1:], fit)

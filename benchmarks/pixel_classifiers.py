"""Classifiers of single pixels by colour: what a network is worth is what it has beyond them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

Features = NDArray[np.float32]
"""(pixels, numbers)."""

Classifier = Callable[[Features, NDArray[np.uint8], int], Callable[[Features], NDArray[np.uint8]]]
"""Features, their labels, and a seed -> what gives features labels."""


def color_features(pixels: NDArray[np.uint8]) -> Features:
    """(rows x columns, 27) optical densities, and their blurred means and spreads at 1 to 16 px."""
    density = -np.log10((pixels.astype(np.float32) + 1) / 256)
    found = [density]
    for sigma in (1, 2, 4, 8, 16):
        mean = ndimage.gaussian_filter(density, (sigma, sigma, 0))
        grey = density.mean(axis=2)
        spread = ndimage.gaussian_filter(grey**2, sigma) - ndimage.gaussian_filter(grey, sigma) ** 2
        found += [mean, np.sqrt(np.maximum(spread, 0))[..., None]]
    return np.concatenate(found, axis=2).reshape(-1, sum(part.shape[2] for part in found))


def qda(features: Features, labels: NDArray[np.uint8], seed: int) -> Callable[[Features], NDArray[np.uint8]]:
    """A Gaussian for each class, all classes equally likely; a little of the unit matrix keeps it from degenerating."""
    del seed
    gaussians = []
    for label in np.unique(labels):
        of_class = features[labels == label]
        covariance = np.cov(of_class.T) + 1e-3 * np.eye(features.shape[1])
        gaussians.append((label, of_class.mean(axis=0), np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]))

    def classify(of: Features) -> NDArray[np.uint8]:
        scores = [-np.einsum("ij,jk,ik->i", of - m, p, of - m, optimize=True) - d for _, m, p, d in gaussians]
        return np.array([label for label, *_ in gaussians], np.uint8)[np.argmax(scores, axis=0)]

    return classify


def mlp(features: Features, labels: NDArray[np.uint8], seed: int) -> Callable[[Features], NDArray[np.uint8]]:
    """Two hidden layers of 64; 1,000 steps of 1,024 pixels."""
    torch.manual_seed(seed)
    known = np.unique(labels)
    network = nn.Sequential(
        nn.Linear(features.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(known))
    )
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    x, y = torch.from_numpy(features), torch.from_numpy(np.searchsorted(known, labels))
    for _ in range(1000):
        chosen = torch.randint(len(y), (1024,))
        loss = nn.functional.cross_entropy(network(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def classify(of: Features) -> NDArray[np.uint8]:
        with torch.inference_mode():
            return known[network(torch.from_numpy(of)).argmax(dim=1).numpy()]

    return classify

"""Label errors: image-level labels that are contradicted by a classifier fitted without the image.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021; here
with two outcomes per class, as an image may show several classes.
"""
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

DECAY = 0.001       # L2 penalty of the weights, for inputs of length 1
ITERATIONS = 50
SLACK = 0.1         # of the distance between the two mean probabilities of a class


def out_of_fold_probs(features: np.ndarray, labels: np.ndarray, folds: int = 5) -> np.ndarray:
    """Probability of each class in each image, float32 [N, K], from a classifier fitted on the other folds.

    Takes features float32 [N, D] and labels 0/1 [N, K]; at least `folds` images must show each class. The folds are
    random with a fixed seed.
    """
    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels).float()
    fold = torch.from_numpy(np.random.default_rng(0).permutation(len(features)) % folds)
    probs = torch.empty_like(targets)
    for number in range(folds):
        others, own = inputs[fold != number], fold == number
        mean, scale = others.mean(0), (others.std(0) + 1e-6) * others.shape[1] ** 0.5
        weight, bias = logistic_regression((others - mean) / scale, targets[fold != number])
        probs[own] = ((inputs[own] - mean) / scale @ weight + bias).sigmoid()
    return probs.numpy()


def logistic_regression(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [D, K] and biases [K] for inputs [N, D] and targets 0/1 [N, K]: cross-entropy and an L2 penalty."""
    weight = inputs.new_zeros(inputs.shape[1], targets.shape[1], requires_grad=True)
    bias = inputs.new_zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn='strong_wolfe')

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weight + bias, targets) * targets.shape[1] + DECAY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def label_errors(probs: np.ndarray, labels: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """The entries that look like those with the opposite label, the most certain first: row and column, int [n, 2].

    A given label is likely wrong if its probability does not exceed the mean over the images without it. A label that
    is not given is likely missing if its probability is at least the mean over the images that have it, and at least
    0.5. Both conditions allow a tolerance of SLACK, because the means of an easy class are close to 0 and 1.

    Args:
        probs: out-of-fold probabilities [N, K].
        labels: 0/1 [N, K].
        judged: bool [K], the classes to check; each must have images with and without it.
    """
    given = labels == 1
    low, high = ((probs * chosen).sum(0) / np.maximum(chosen.sum(0), 1) for chosen in (~given, given))
    slack = SLACK * np.maximum(high - low, 0)
    found = np.argwhere(judged & np.where(given, probs <= low + slack, probs >= np.maximum(high - slack, 0.5)))
    confidence = np.where(given, probs, 1 - probs)[tuple(found.T)]
    return found[np.argsort(confidence, kind='stable')]

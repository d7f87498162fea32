"""Reference metrics of the bundled dump, by a dense float64 SVD.

It shares no code with the package: NumPy for the mathematics, zarr only to read the array. Run it from
anywhere; it writes the JSON file that lies beside it:

    python tests/data/make_reference.py
"""

import json
import math
from pathlib import Path

import numpy as np

DUMP = Path(__file__).parents[2] / "rankme_stream" / "cli" / "data" / "minilm-docstrings-4096.zarr"
REFERENCE = Path(__file__).with_name("minilm-docstrings-4096.reference.json")


def entropy_rank(values, eps=0.0):
    """exp(-sum p ln p) with p = values / sum(values) + eps, and 0 ln 0 = 0."""
    p = values / math.fsum(values) + eps
    p = p[p > 0]
    return math.exp(-math.fsum(p * np.log(p)))


def decay_exponent(eigenvalues):
    """Exponent a of l_j ~ j^-a: least squares of ln l on ln j, weights 1/j, j = 11..100."""
    j = np.arange(1, len(eigenvalues) + 1)
    kept = (j >= 11) & (j <= 100) & (eigenvalues > 0)
    x, y, w = np.log(j[kept]), np.log(eigenvalues[kept]), 1.0 / j[kept]
    x_mean, y_mean = np.average(x, weights=w), np.average(y, weights=w)
    return float(-np.sum(w * (x - x_mean) * (y - y_mean)) / np.sum(w * (x - x_mean) ** 2))


def estimates(stored):
    """Every estimate of a matrix in its stored dtype, rows as they are."""
    rows = stored.astype(np.float64)
    n_features = rows.shape[1]
    s = np.linalg.svd(rows, compute_uv=False)
    s_centered = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    energy, variance = s**2, s_centered**2
    participation_ratio = math.fsum(variance) ** 2 / math.fsum(variance**2)
    rounding = np.finfo(stored.dtype).eps / 2
    return {
        "rankme": entropy_rank(s, 1e-7),
        "effective_rank": entropy_rank(s),
        "centered_rankme": entropy_rank(s_centered, 1e-7),
        "centered_effective_rank": entropy_rank(s_centered),
        "variance_effective_rank": entropy_rank(variance),
        "participation_ratio": participation_ratio,
        "stable_rank": math.fsum(energy) / float(energy[0]),
        "nesum": math.fsum(variance) / float(variance[0]),
        "isoscore": (participation_ratio - 1) / (n_features - 1),
        "numerical_rank": int(np.count_nonzero(s > rounding * math.sqrt(math.fsum(energy)))),
        "alpha_req": decay_exponent(variance),
    }


def normalized(stored):
    """The metrics of the rows scaled to unit length; the cosines of all pairs are formed, as our code never does."""
    rows = stored.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1)[:, None]
    n_rows, n_features = unit.shape
    s = np.linalg.svd(unit, compute_uv=False)
    cosines = unit @ unit.T
    chance = n_rows + n_rows * (n_rows - 1) / n_features
    return {
        "rankme": entropy_rank(s, 1e-7),
        "vendi": entropy_rank(s**2),
        "self_cluster": (math.fsum((cosines**2).sum(axis=1)) - chance) / (n_rows**2 - chance),
        "cosine_anisotropy": (math.fsum(cosines.sum(axis=1)) - n_rows) / (n_rows * (n_rows - 1)),
    }


def main():
    import zarr

    stored = zarr.open_group(DUMP, mode="r")["embeddings"][:]
    reference = {
        "n_rows": stored.shape[0],
        "n_features": stored.shape[1],
        "computed_with": "float64 LAPACK SVD of the stored float16 values, by tests/data/make_reference.py",
        "estimates": estimates(stored),
        "normalized": normalized(stored),
        "dims": {str(d): estimates(stored[:, :d]) for d in (64, 128)},
    }
    REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()

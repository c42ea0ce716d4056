"""Palettes: the best 2^n values for a set of weights, found exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....targets.errors import MissingExtra

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BITS = (1, 2, 3, 4, 6, 8)
"""Widths of an index that Core ML stores."""


def palette(weights: Array, bits: int) -> tuple[Array, Array]:
    """(table, indices) of least squared error: 2^bits values ascending in the weights' dtype, uint8 per weight.

    One-dimensional k-means is solved exactly by dynamic programming over the sorted values (Grønlund et al.,
    "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", arXiv:1701.07204), by the library
    that coremltools carries: no seed, no local optimum, and no scikit-learn. Equal weights count as often as
    they occur; float32 weights are first rounded to float16 steps of the largest, so that at most 65,536
    differ. Unused entries of the table repeat the last one.
    """
    import numpy as np

    flat = weights.reshape(-1)
    largest = float(np.max(np.abs(flat), initial=0.0)) or 1.0
    steps = flat if flat.dtype == np.float16 else (flat / largest).astype(np.float16)
    values, inverse, counts = np.unique(steps, return_inverse=True, return_counts=True)
    values = values.astype(np.float64) * (1.0 if flat.dtype == np.float16 else largest)
    clusters, centroids = _cluster(values, counts, min(2**bits, len(values)))
    table = np.full(2**bits, centroids[-1], flat.dtype)
    table[: len(centroids)] = centroids
    return table, clusters[inverse.reshape(-1)]


def _cluster(values: Array, counts: Array, clusters: int) -> tuple[Array, Array]:
    """(index of each value's cluster, centroids); `values` ascend and differ."""
    import numpy as np
    from coremltools import _deps

    if not _deps._HAS_KMEANS1D:
        raise MissingExtra(
            "this build of coremltools lacks its k-means library",
            where="--quant palette",
            mend="Install coremltools from a wheel, or choose int8-weight",
        )
    found = _deps._kmeans1d.cluster(values, clusters, weights=counts)
    return np.array(found.clusters, np.uint8), np.array(found.centroids)

"""The look for NaN and Inf in a model's weights: every library takes them, and every result is then NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...targets.errors import SourceUnreadable

if TYPE_CHECKING:
    import numpy as np


def refuse_non_finite(values: np.ndarray[Any, Any], where: str) -> None:
    """Raise SourceUnreadable where a weight, `where` in its file, holds values that are not finite.

    Single numbers may be infinite (limits of a clip), and so may masks: 0 where one may look, -Inf elsewhere.
    """
    import numpy as np

    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return
    bad = ~np.isfinite(values)
    if not np.isnan(values).any():
        is_mask = bool((values[bad] < 0).all()) and not values[~bad].any()
        if values.size == 1 or is_mask:
            return
    raise SourceUnreadable(
        f"{int(bad.sum())} of {values.size} values are NaN or Inf",
        where=where,
        mend="Save the model again from a checkpoint whose weights are finite",
    )

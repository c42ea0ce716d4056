"""Divides samples into those that calibrate and those that are held out, without a copy on both sides."""

from __future__ import annotations

import hashlib

from ..targets.errors import UsageError

HELD_OUT = 64
"""Samples held out for verification where there are enough; never more than a fifth of the distinct ones."""


def split(digests: list[bytes], held_out: int | None, seed: int, data: str) -> tuple[list[int], list[int]]:
    """(calibration, held_out): indices of samples, each in an order drawn with `seed`.

    A sample's place depends on its content and on the seed alone, not on its position in the file. Copies go
    together: all of them to calibration, or one to the held-out set and the others to neither.

    Raises UsageError when there are fewer than two distinct samples or too few for `held_out`.
    """
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    if len(groups) < 2:
        raise UsageError(
            _too_few(len(digests)),
            where=data,
            mend="Give at least two different samples: one calibrates, one verifies",
        )
    wanted = held_out if held_out is not None else max(1, min(HELD_OUT, len(groups) // 5))
    if wanted >= len(groups):
        raise UsageError(
            f"{wanted} of {len(groups)} distinct samples held out leave none to calibrate with",
            where="--held-out",
            mend=f"Give more data, or hold out at most {len(groups) - 1}",
        )
    salt = seed.to_bytes(16, "little", signed=True)
    drawn = sorted(groups, key=lambda digest: hashlib.sha256(salt + digest).digest())
    held = [groups[digest][0] for digest in drawn[:wanted]]
    kept = [index for digest in drawn[wanted:] for index in groups[digest]]
    return kept, held


def _too_few(count: int) -> str:
    if count < 2:
        return "there is only one sample" if count else "there are no samples"
    return f"all {count} samples are the same"

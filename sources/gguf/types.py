"""The types of ggml's tensors: how many values stand in a block, and how many bytes a block takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 30: ("bfloat16", 1, 2), 28: ("float64", 1, 8),
    24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8),
    2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    29: ("iq1_m", 256, 56), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18), 42: ("q2_0", 64, 18),
}  # fmt: skip
"""By ggml's type id: modelport's name, elements of a block and bytes of a block (ggml-common.h).

The names are those of `facts.DTYPE_BITS` and `facts.BLOCK_BITS`; ids that are missing were removed from ggml.
"""


def type_bytes(type: int, shape: Sequence[int]) -> int:
    """Bytes of a tensor of ggml type `type` and numpy-order `shape`, whose rows are whole blocks."""
    _, elements, size = TYPES[type]
    total = 1
    for count in shape:
        total *= count
    return total // elements * size

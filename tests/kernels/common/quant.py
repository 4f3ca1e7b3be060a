"""What the tests of quantising have in common on all devices."""

from __future__ import annotations

# Scales' shapes and group_shape of static_scaled_fp8_quant, for inputs of 24 x 640.
SCALE_GROUPS: list[tuple[tuple[int, ...], list[int] | None]] = [
    ((24,), [1, -1]),
    ((640,), [-1, 1]),
    ((5,), [-1, 128]),
    ((24, 5), None),
    ((24, 1), None),
    ((1, 640), None),
    ((3, 5), [8, 128]),
    ((6, 32), [4, 20]),
]

"""Edge values for registers: integers, single and double precision.

Where signs, widths, boxes and exponents change; halves and largest numbers that round, or convert,
one way or the other; infinities, quiet and signalling NaNs.
"""

from __future__ import annotations

M64 = 2**64 - 1
BOX = 0xFFFFFFFF_00000000  # the upper half of a register that holds a single

# fmt: off
WORDS: tuple[int, ...] = (
    0, 1, 2, 3, 7, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, M64, M64 - 1, M64 - 0x7F,
    -(2**31) & M64, 0x0102_0304_0506_0708, 0x8000_0000_8000_0000, 0x00FF_FF00_00FF_00FF,
)
SINGLES: tuple[int, ...] = (
    0, 1 << 31, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
    0xFFC12345, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F000000,
    0x3FC00000, 0x4EFFFFFF, 0x4F000000, 0x4F800000, 0x5F000000, 0xCF000001, 0x33800001,
    0x40490FDB, 0x34000000, 0x00FFFFFF, 0x5F7FFFFF, 0xBF7FFFFF, 0xBF000000, 0x7E967699,
)
DOUBLES: tuple[int, ...] = (
    0, 1 << 63, 0x3FF << 52, 0xBFF << 52, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48,
    0x7FF0_0000_0000_0001, 0xFFF8_1234_5678_9ABC, 1, 1 << 63 | 1, (1 << 52) - 1, 1 << 52,
    0x7FEF_FFFF_FFFF_FFFF, 0x3FE << 52, 0x3FF8 << 48, 0x41DF_FFFF_FFC0_0000,
    0x41E << 52, 0xC1E << 52, 0x43E << 52, 0x43F << 52, 0xC3E << 52, 0x3810 << 48,
    0x47EF_FFFF_E000_0000, 0x47EF_FFFF_F000_0000, 0x3690_0000_0000_0001, 0x3CA0 << 48,
    0x4009_21FB_5444_2D18, 0xC1E0_0000_0020_0000, 0x380F_FFFF_E000_0000, 0x0010 << 48 | 1,
)
# fmt: on

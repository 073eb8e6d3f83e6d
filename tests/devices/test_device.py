"""Narrow accesses to wide registers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.device import AccessFault, check_access, extract, insert


@given(st.binary(min_size=8, max_size=8), st.sampled_from([1, 2, 4, 8]), st.data())
def test_a_part_of_a_register_is_its_bytes(register: bytes, size: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, 8 // size - 1)) * size
    part = data.draw(st.binary(min_size=size, max_size=size))
    value = int.from_bytes(register, "little")
    assert extract(value, offset, size) == int.from_bytes(
        register[offset : offset + size], "little"
    )
    written = insert(value, offset, size, int.from_bytes(part, "little"))
    assert written.to_bytes(8, "little") == register[:offset] + part + register[offset + size :]


def test_an_access_must_be_aligned_and_of_a_size_that_is_decoded() -> None:
    check_access(8, 4, (4, 8), write=False)
    with pytest.raises(AccessFault, match="read of 2 bytes at 0x8"):
        check_access(8, 2, (4, 8), write=False)
    with pytest.raises(AccessFault, match="write of 8 bytes at 0xc"):
        check_access(12, 8, (4, 8), write=True)

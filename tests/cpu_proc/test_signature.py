"""The signature's format, character by character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_proc import signature
from protocol.errors import UserError

SYMBOLS = {"begin_signature": 0x8000_2000, "end_signature": 0x8000_2008}


def spike(data: bytes, line_size: int) -> str:
    """The loop of Spike's fesvr/htif.cc, kept as close to it as Python allows."""
    text = ""
    for i in range(0, len(data), line_size):
        for j in range(line_size, 0, -1):
            text += f"{data[i + j - 1]:02x}" if i + j <= len(data) else "00"
        text += "\n"
    return text


def test_one_little_endian_word_a_line():
    assert "04030201\n08070605\n" == signature.render(bytes(range(1, 9)), 4)
    assert "0807060504030201\n" == signature.render(bytes(range(1, 9)), 8)


def test_a_last_line_that_is_not_full_is_padded_with_zeros():
    assert "04030201\n00000005\n" == signature.render(bytes(range(1, 6)), 4)


@given(st.binary(max_size=70), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_it_is_what_spike_writes(data, granularity):
    assert spike(data, granularity) == signature.render(data, granularity)


def test_the_memory_between_the_symbols_is_written(tmp_path):
    path = tmp_path / "out"
    asked = []

    def read(address: int, length: int) -> bytes:
        asked.append((address, length))
        return b"\xef\xbe\xad\xde" * (length // 4)

    signature.write(str(path), read, SYMBOLS)

    assert [(0x8000_2000, 8)] == asked
    assert "deadbeef\ndeadbeef\n" == path.read_text()


@pytest.mark.parametrize("missing", ["begin_signature", "end_signature"])
def test_a_program_without_signature_is_told(missing):
    symbols = {name: value for name, value in SYMBOLS.items() if name != missing}

    with pytest.raises(UserError, match=f"--signature: .*{missing}"):
        signature.bounds(symbols)


def test_symbols_the_wrong_way_round_are_told():
    with pytest.raises(UserError, match="lies before"):
        signature.bounds({"begin_signature": 8, "end_signature": 4})


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^--signature"):
        signature.write(str(tmp_path), lambda address, length: bytes(length), SYMBOLS)

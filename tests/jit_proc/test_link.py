"""Linked images are mapped for execution and called: what runs is what the IR said."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_proc.link import MAX_ALIGNMENT, Linked, LinkError, link
from jit_proc.llvm import (
    DEFAULT_PASSES,
    IRError,
    compile_ir,
    emit_assembly,
    identity,
    optimize_ir,
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

Call = Callable[..., Any]
Loader = Callable[..., Callable[..., Call]]


@pytest.fixture
def load() -> Iterator[Loader]:
    """Compile, link and map read-and-execute; gives `function(name, result, *arguments)`."""
    maps: list[tuple[int, int]] = []

    def load(
        text: str, passes: tuple[str, ...] = DEFAULT_PASSES, level: int = 1
    ) -> Callable[..., Call]:
        image = link(compile_ir(text, passes, level).elf)
        fd = os.memfd_create("test")
        os.write(fd, bytes(MAX_ALIGNMENT) + image.code)  # not at a page's start, on purpose
        size = MAX_ALIGNMENT + len(image.code)
        base = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd, 0)
        os.close(fd)
        assert base != ctypes.c_void_p(-1).value
        maps.append((base, size))

        def function(name: str, result: Any, *arguments: Any) -> Call:
            return ctypes.CFUNCTYPE(result, *arguments)(base + MAX_ALIGNMENT + image.symbols[name])

        return function

    yield load
    for base, size in maps:
        _libc.munmap(base, size)


u64 = ctypes.c_uint64


def test_jump_table(load: Loader) -> None:
    cases = "\n".join(f"i64 {i}, label %l{i}" for i in range(12))
    # Stores that differ in width keep each arm a block of its own: a table of jumps remains.
    arms = "\n".join(
        f"l{i}:\n store volatile i{8 << (i % 4)} {i}, ptr %p\n ret i64 {i * i + 1}"
        for i in range(12)
    )
    text = f"""
    define i64 @pick(i64 %x, ptr %p) nounwind {{
      switch i64 %x, label %other [ {cases} ]
    {arms}
    other:
      ret i64 -1
    }}"""
    assert b".rodata" in compile_ir(text).elf
    pick = load(text)("pick", u64, u64, ctypes.c_void_p)
    cell = ctypes.c_uint64()
    assert [pick(i, ctypes.addressof(cell)) for i in range(12)] == [i * i + 1 for i in range(12)]
    assert pick(12, ctypes.addressof(cell)) == 2**64 - 1


def test_constant_pools_of_several_alignments(load: Loader) -> None:
    text = """
    define double @scale(double %a) nounwind {
      %r = fmul double %a, 1.5
      %s = fadd double %r, 0x400921FB54442D18
      ret double %s
    }
    define float @single(float %a) nounwind {
      %r = fmul float %a, 0x3FD5555560000000
      ret float %r
    }
    define void @vector(ptr %p) nounwind {
      %v = load <8 x i32>, ptr %p, align 4
      %w = add <8 x i32> %v, <i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 -8>
      store <8 x i32> %w, ptr %p, align 4
      ret void
    }"""
    function = load(text)
    assert function("scale", ctypes.c_double, ctypes.c_double)(2.0) == 3.0 + 3.141592653589793
    third = ctypes.c_float(1 / 3).value
    assert function("single", ctypes.c_float, ctypes.c_float)(1.0) == third
    cells = (ctypes.c_int32 * 8)(*range(8))
    function("vector", None, ctypes.c_void_p)(ctypes.addressof(cells))
    assert list(cells) == [1, 3, 5, 7, 9, 11, 13, -1]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_functions_call_each_other(load: Loader, level: int) -> None:
    text = """
    define i64 @even(i64 %n) nounwind noinline {
      %zero = icmp eq i64 %n, 0
      br i1 %zero, label %yes, label %more
    yes:
      ret i64 1
    more:
      %m = sub i64 %n, 1
      %r = call i64 @odd(i64 %m)
      %k = xor i64 %r, 0
      ret i64 %k
    }
    define internal i64 @odd(i64 %n) nounwind noinline {
      %zero = icmp eq i64 %n, 0
      br i1 %zero, label %no, label %more
    no:
      ret i64 0
    more:
      %m = sub i64 %n, 1
      %r = call i64 @even(i64 %m)
      ret i64 %r
    }"""
    function = load(text, passes=(), level=level)
    even = function("even", u64, u64)
    assert [even(n) for n in range(6)] == [1, 0, 1, 0, 1, 0]
    assert function("odd", u64, u64)(7) == 1  # internal functions have names too


def test_table_of_distances_to_handlers(load: Loader) -> None:
    """How the engine finds its handlers without one absolute address in the image."""
    text = """
    @table = internal constant [2 x i32] [
      i32 trunc (i64 sub (i64 ptrtoint (ptr @twice to i64),
                          i64 ptrtoint (ptr @table to i64)) to i32),
      i32 trunc (i64 sub (i64 ptrtoint (ptr @thrice to i64),
                          i64 ptrtoint (ptr @table to i64)) to i32)]
    define internal i64 @twice(i64 %x) nounwind { %r = mul i64 %x, 2  ret i64 %r }
    define internal i64 @thrice(i64 %x) nounwind { %r = mul i64 %x, 3  ret i64 %r }
    define i64 @run(i64 %which, i64 %x) nounwind {
      %cell = getelementptr i32, ptr @table, i64 %which
      %distance = load i32, ptr %cell
      %wide = sext i32 %distance to i64
      %handler = getelementptr i8, ptr @table, i64 %wide
      %r = call i64 %handler(i64 %x)
      ret i64 %r
    }"""
    run = load(text)("run", u64, u64, u64)
    assert [run(0, 21), run(1, 21)] == [42, 63]


def test_musttail_chain_dispatches_through_pointers(load: Loader) -> None:
    """A threaded interpreter of three handlers: the stack must not grow with the steps."""
    handler = """
    define internal preserve_nonecc
    void @{name}(ptr %state, ptr %record, i64 %left) nounwind {{
      %old = load i64, ptr %state
      %new = {operation}
      store i64 %new, ptr %state
      %rest = sub i64 %left, 1
      %done = icmp eq i64 %rest, 0
      br i1 %done, label %out, label %on
    on:
      %next = getelementptr ptr, ptr %record, i64 1
      %target = load ptr, ptr %next
      musttail call preserve_nonecc void %target(ptr %state, ptr %next, i64 %rest)
      ret void
    out:
      ret void
    }}"""
    text = "\n".join(
        (
            handler.format(name="add", operation="add i64 %old, 3"),
            handler.format(name="mul", operation="mul i64 %old, 5"),
            """
            define internal preserve_nonecc
            void @again(ptr %state, ptr %record, i64 %left) nounwind {
              %first = getelementptr ptr, ptr %record, i64 -2
              %target = load ptr, ptr %first
              musttail call preserve_nonecc void %target(ptr %state, ptr %first, i64 %left)
              ret void
            }
            define void @enter(ptr %state, ptr %record, i64 %left) nounwind {
              %target = load ptr, ptr %record
              call preserve_nonecc void %target(ptr %state, ptr %record, i64 %left)
              ret void
            }
            define ptr @handler(i64 %n) nounwind {
              %a = icmp eq i64 %n, 0
              %b = icmp eq i64 %n, 1
              %bc = select i1 %b, ptr @mul, ptr @again
              %abc = select i1 %a, ptr @add, ptr %bc
              ret ptr %abc
            }""",
        )
    )
    function = load(text, level=2)
    handler_of = function("handler", u64, u64)
    records = (u64 * 3)(*(handler_of(n) for n in range(3)))
    state = u64(1)
    steps = 200_000  # of two handlers; a growing stack would overflow
    function("enter", None, ctypes.c_void_p, ctypes.c_void_p, u64)(
        ctypes.addressof(state), ctypes.addressof(records), steps
    )
    expected = 1
    for _ in range(steps // 2):
        expected = (expected + 3) * 5 % 2**64
    assert state.value == expected


def test_images_do_not_depend_on_their_address() -> None:
    image = link(compile_ir(ONE).elf)
    assert isinstance(image, Linked)
    assert image.symbols == {"one": 0}
    assert 0 < image.text_size <= len(image.code)
    assert image.stack_maps == b""


ONE = "define i64 @one() nounwind { ret i64 1 }"


def test_unwind_tables_are_left_out() -> None:
    plain = link(compile_ir(ONE).elf)
    unwinding = link(compile_ir("define i64 @one() uwtable { ret i64 1 }").elf)
    assert unwinding.code == plain.code


def test_stack_maps_are_handed_back_with_offsets() -> None:
    text = """
    declare void @llvm.experimental.stackmap(i64, i32, ...)
    define void @first() nounwind { ret void }
    define void @second(i64 %x) nounwind {
      call void (i64, i32, ...) @llvm.experimental.stackmap(i64 77, i32 8, i64 %x)
      ret void
    }"""
    image = link(compile_ir(text).elf)
    version, _, functions, _constants, records = struct.unpack_from("<BB2xIII", image.stack_maps)
    assert (version, functions, records) == (3, 1, 1)
    assert struct.unpack_from("<Q", image.stack_maps, 16)[0] == image.symbols["second"]


REFUSED = {
    "writable data": (
        "@v = global i64 7  define ptr @f() nounwind { ret ptr @v }",
        r"\.data.*writable data",
    ),
    "zero data": (
        "@v = internal global i64 0 "
        "define void @f() nounwind { store volatile i64 1, ptr @v ret void }",
        r"\.bss.*zero-initialised",
    ),
    "thread-local": (
        "@v = internal thread_local global i64 3 "
        "define void @f() nounwind { store volatile i64 1, ptr @v ret void }",
        "thread-local",
    ),
    "undefined": (
        "declare void @helper()  define void @f() nounwind { call void @helper() ret void }",
        "helper.*undefined symbol.*through a pointer",
    ),
    "offset table": (
        "define i64 @g() nounwind noinline { ret i64 1 }  define ptr @f() nounwind { ret ptr @g }",
        "GOTPCREL.*g.*dso_local",
    ),
    "absolute address": (
        "define internal i64 @g() nounwind noinline { ret i64 1 } "
        "@t = internal constant [2 x ptr] [ptr @g, ptr @g] "
        "define ptr @f(i64 %i) nounwind { %p = getelementptr ptr, ptr @t, i64 %i "
        "%h = load ptr, ptr %p ret ptr %h }",
        r"R_X86_64_64 at \.data\.rel\.ro.*distance",
    ),
    "comdat": (
        "$f = comdat any  define i64 @f() nounwind comdat { ret i64 1 }",
        "COMDAT",
    ),
    "big alignment": (
        "@t = internal constant [4 x i64] [i64 1, i64 2, i64 3, i64 4], align 4096 "
        "define i64 @f(i64 %i) nounwind { %p = getelementptr i64, ptr @t, i64 %i "
        "%v = load i64, ptr %p ret i64 %v }",
        "alignment of 4096",
    ),
    "no code": ("@t = constant i64 1", "no code"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_cannot_be_placed(case: str) -> None:
    text, message = REFUSED[case]
    elf = compile_ir(text).elf
    with pytest.raises(LinkError, match=message):
        link(elf)


@pytest.mark.parametrize("elf", [b"", b"\x7fELF", b"x" * 100, b"\x7fELF\x02\x01" + bytes(58)])
def test_refuses_what_is_no_object(elf: bytes) -> None:
    with pytest.raises(LinkError, match="ELF"):
        link(elf)


_OBJECT = compile_ir(
    "define double @f(double %a) nounwind { %r = fmul double %a, 1.5 ret double %r }"
).elf


@given(st.integers(0, len(_OBJECT) - 1), st.integers(0, 255), st.booleans())
def test_damaged_objects_never_do_more_than_raise(place: int, value: int, cut: bool) -> None:
    elf = _OBJECT[:place] if cut else _OBJECT[:place] + bytes([value]) + _OBJECT[place + 1 :]
    try:
        image = link(elf)
    except LinkError:
        return
    assert len(image.code) <= 2 * len(elf) + MAX_ALIGNMENT * 64


@pytest.mark.parametrize(
    "text", ["define i64 @f( {", "define i64 @f() { ret i32 1 }", "define void @f() { unknown }"]
)
def test_wrong_ir_is_an_error_not_an_end(text: str) -> None:
    with pytest.raises(IRError):
        compile_ir(text)


def test_unknown_pass_is_named() -> None:
    with pytest.raises(IRError, match=r"'magic'.*sroa"):
        compile_ir(ONE, passes=("magic",))


def test_every_known_pass_runs() -> None:
    from jit_proc.passes import PASS_METHODS

    for name in PASS_METHODS:
        compile_ir(ONE, passes=(name,))


def test_compilation_repeats_itself_and_tells_its_cost() -> None:
    first, second = compile_ir(ONE), compile_ir(ONE)
    assert first.elf == second.elf
    timings = first.timings
    assert min(timings.parse, timings.verify, timings.optimize, timings.codegen) >= 0
    assert timings.total >= timings.codegen
    assert identity().startswith("llvm-")


def test_passes_shape_the_ir() -> None:
    text = """
    define i64 @f(i64 %x) nounwind {
      %cell = alloca i64
      store i64 %x, ptr %cell
      %y = load i64, ptr %cell
      ret i64 %y
    }"""
    assert "alloca" not in optimize_ir(text)
    assert "alloca" in optimize_ir(text, passes=())
    assert "retq" in emit_assembly(text)

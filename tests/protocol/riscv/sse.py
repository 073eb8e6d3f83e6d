"""The floating-point operations of an x86-64 host, to compare with.

One LLVM function for each loads MXCSR with the rounding mode and no flags raised, performs the
operation by a constrained intrinsic (LLVM then neither folds nor moves it), and stores MXCSR.
"""

import ctypes
from collections.abc import Callable

from llvmlite import binding

RNE, RTZ, RDN, RUP = range(4)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16

HostOperation = Callable[..., tuple[int, int]]

SHAPES = {
    "add": ("fadd", 2),
    "sub": ("fsub", 2),
    "mul": ("fmul", 2),
    "div": ("fdiv", 2),
    "sqrt": ("sqrt", 1),
    "fma": ("fma", 3),
}
SSE_ROUNDING = {RNE: 0, RDN: 1, RUP: 2, RTZ: 3}
DYNAMIC, STRICT = 'metadata !"round.dynamic"', 'metadata !"fpexcept.strict"'


def host_function(name: str, intrinsic: str, source: str, target: str, count: int) -> str:
    """LLVM IR of one operation between loading MXCSR and storing it."""
    integer = {"float": "i32", "double": "i64"}
    lines = [f"define i64 @{name}(i64 %a0, i64 %a1, i64 %a2, ptr %csr) strictfp {{"]
    lines += ["  %saved = alloca i32", "  call void @llvm.x86.sse.stmxcsr(ptr %saved)"]
    for i in range(count):
        width = integer.get(source, source)
        lines += [
            f"  %n{i} = trunc i64 %a{i} to {width}"
            if width != "i64"
            else f"  %n{i} = add i64 %a{i}, 0",
            f"  %x{i} = bitcast {width} %n{i} to {source}",
        ]
    arguments = [f"{source} %x{i}" for i in range(count)]
    types = [source] * count
    if intrinsic != "fpext":
        arguments.append(DYNAMIC)
        types.append("metadata")
    arguments.append(STRICT)
    types.append("metadata")
    suffix = {"float": "f32", "double": "f64"}
    overload = suffix[target]
    if source != target:
        overload += "." + suffix.get(source, source)
    callee = f"llvm.experimental.constrained.{intrinsic}.{overload}"
    lines += [
        "  call void @llvm.x86.sse.ldmxcsr(ptr %csr)",
        f"  %r = call {target} @{callee}({', '.join(arguments)}) strictfp",
        "  call void @llvm.x86.sse.stmxcsr(ptr %csr)",
        "  call void @llvm.x86.sse.ldmxcsr(ptr %saved)",
        f"  %b = bitcast {target} %r to {integer[target]}",
        "  %z = zext i32 %b to i64" if target == "float" else "  %z = add i64 %b, 0",
        "  ret i64 %z",
        "}",
        f"declare {target} @{callee}({', '.join(types)})",
    ]
    return "\n".join(lines)


def host_operations() -> dict[str, HostOperation]:
    """The operations that the host has, as (operands, rounding mode) -> (bits, flags).

    They are named as in `OPERATIONS`. A NaN is the host's; there is none of fma on a host without.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    rows: dict[str, tuple[str, str, str, int]] = {}
    for short, kind in (("f32", "float"), ("f64", "double")):
        for name, (intrinsic, count) in SHAPES.items():
            if name != "fma" or features.get("fma"):
                rows[f"{short}_{name}"] = (intrinsic, kind, kind, count)
        for width in ("32", "64"):
            rows[f"{short}_from_i{width}"] = ("sitofp", f"i{width}", kind, 1)
            rows[f"{short}_from_u{width}"] = ("uitofp", f"i{width}", kind, 1)
    rows["f64_to_f32"] = ("fptrunc", "double", "float", 1)
    rows["f32_to_f64"] = ("fpext", "float", "double", 1)
    text = "\n".join(host_function(name, *row) for name, row in rows.items())
    text += "\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)\ndeclare void @llvm.x86.sse.stmxcsr(ptr)\n"
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features.flatten()
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly(text), machine)
    engine.finalize_object()
    word = ctypes.c_uint64
    prototype = ctypes.CFUNCTYPE(word, word, word, word, ctypes.POINTER(ctypes.c_uint32))

    def caller(name: str) -> HostOperation:
        function = prototype(engine.get_function_address(name))

        def call(*arguments: int) -> tuple[int, int]:
            *inputs, rm = arguments
            inputs += [0] * (3 - len(inputs))
            csr = ctypes.c_uint32(0x1F80 | SSE_ROUNDING[rm] << 13)
            result = function(*inputs, ctypes.byref(csr))
            # MXCSR: IE, DE, ZE, OE, UE, PE from bit 0 up
            flags = csr.value
            sse = [(5, NX), (4, UF), (3, OF), (2, DZ), (0, NV)]
            return result, sum(flag for bit, flag in sse if flags >> bit & 1)

        call.engine = engine  # type: ignore[attr-defined]  # it owns the code
        return call

    return {name: caller(name) for name in rows}

"""The processor that latencies are measured on: its name and the instruction sets that int8 needs.

Names of flags: /proc/cpuinfo of the Linux kernel (arch/x86/include/asm/cpufeatures.h and
arch/arm64/kernel/cpuinfo.c), and `sysctl hw.optional` of macOS.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

# What multiplies floats or bytes in LiteRT's kernels, from the oldest to the newest of each family,
# with the flags that systems have for it.
INSTRUCTION_SETS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX-VNNI": ("avx_vnni",),
    "AMX int8": ("amx_int8",),
    "NEON": ("asimd", "neon", "arm.advsimd"),
    "NEON dotprod": ("asimddp", "arm.feat_dotprod"),
    "NEON i8mm": ("i8mm", "arm.feat_i8mm"),
    "SVE": ("sve", "arm.feat_sve"),
}
# Those that add up products of bytes in 32 bits in one step. LiteRT's int8 kernels are made for
# them; without one, XNNPACK widens bytes to 16 bits first.
DOT_PRODUCTS = ("AVX-512 VNNI", "AVX-VNNI", "AMX int8", "NEON dotprod", "NEON i8mm")
CPU_INFO = Path("/proc/cpuinfo")
SYSCTL_SECONDS = 5  # until a `sysctl` that does not answer is left alone


def cpu_name() -> str:
    """Name of the processor's model, as the system tells it."""
    names = cpu_info("model name")
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> list[str] | None:
    """Those of INSTRUCTION_SETS that this processor has; None where the system does not tell."""
    flags = [flag for line in cpu_info("flags", "Features") for flag in line.split()]
    return named_sets(flags or macos_flags())


def named_sets(flags: Iterable[str]) -> list[str] | None:
    """Names of the instruction sets that some flags of a system stand for; None without flags."""
    lowered = {flag.lower() for flag in flags}
    if not lowered:
        return None
    return [name for name, known in INSTRUCTION_SETS.items() if lowered & set(known)]


def cpu_info(*keys: str) -> list[str]:
    """Values of the first core's lines with one of the keys in /proc/cpuinfo; empty without it."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return [value.strip() for key, _, value in pairs if key.strip() in keys]


def macos_flags() -> list[str]:
    """Features of a Mac's processor that are switched on; empty on other systems."""
    if platform.system() != "Darwin":
        return []
    try:
        told = subprocess.run(
            ["sysctl", "hw.optional", "machdep.cpu"],
            capture_output=True,
            text=True,
            timeout=SYSCTL_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sysctl_flags(told)


def sysctl_flags(told: str) -> list[str]:
    """Flags in what `sysctl hw.optional machdep.cpu` prints."""
    flags = []
    for line in told.splitlines():
        key, _, value = line.partition(":")
        if key.startswith("hw.optional.") and value.strip() == "1":
            flags.append(key.removeprefix("hw.optional.").lower())
        elif key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            flags += value.lower().split()
    return flags

"""The processor's name and instruction sets, from what Linux and macOS tell."""

import pytest

from pipeline.evaluation import processor

ZEN3 = "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx avx2 fma\n"
ICE_LAKE = (
    "model name\t: Xeon\nflags\t\t: avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags: amx_int8\n"
)
CORTEX_A76 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimdhp asimddp\nCPU part\t: 0xd0b\n"
APPLE_M2 = """hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.arm.AdvSIMD: 1
machdep.cpu.brand_string: Apple M2
"""
INTEL_MAC = "machdep.cpu.features: FPU SSE4.2 AVX1.0\nmachdep.cpu.leaf7_features: AVX2 AVX512F\n"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Makes Linux tell a text in place of this machine's."""
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.platform, "system", lambda: "Linux")
    return lambda text: (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ZEN3, ["AVX2"]),
        (ICE_LAKE, ["AVX2", "AVX-512", "AVX-512 VNNI"]),
        (CORTEX_A76, ["NEON", "NEON dotprod"]),
        ("processor\t: 0\n", None),
    ],
)
def test_instruction_sets_of_linux(told, text, expected):
    told(text)
    assert processor.instruction_sets() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(APPLE_M2, ["NEON", "NEON dotprod", "NEON i8mm"]), (INTEL_MAC, ["AVX2", "AVX-512"])],
)
def test_instruction_sets_of_macos(text, expected):
    assert processor.named_sets(processor.sysctl_flags(text)) == expected


def test_system_that_tells_nothing_has_a_name_and_no_instruction_sets(told, monkeypatch):
    monkeypatch.setattr(processor.platform, "processor", lambda: "")
    monkeypatch.setattr(processor.platform, "machine", lambda: "riscv64")
    assert processor.cpu_name() == "riscv64"
    assert processor.instruction_sets() is None


def test_name_is_that_of_the_first_core(told):
    told(ZEN3)
    assert processor.cpu_name() == "AMD EPYC"

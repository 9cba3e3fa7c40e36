"""What a benchmark calls the machine that it ran on."""

from __future__ import annotations

import pytest

from benchmarks.machine import processor

GENOA = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (GENOA, "AMD EPYC (family 25, model 17)"),
        (GENOA.replace("AMD EPYC", "AMD EPYC 9354 32-Core Processor"),
         "AMD EPYC 9354 32-Core Processor"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_name_that_hides_which_it_is_gets_its_family(cpuinfo: str, name: str) -> None:
    assert processor(cpuinfo + cpuinfo) == name

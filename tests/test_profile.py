"""Byte quantities and what the machine may spend."""

from __future__ import annotations

from pathlib import Path

import pytest

from vortex_engine.profile import available_ram_bytes, default_ram_budget, format_bytes, n_cores, parse_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        (0, 0),
        (123, 123),
        ("400000B", 400000),
        ("400000", 400000),
        ("64MiB", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("2 gb", 2 * 10**9),
        ("0.1GB", 100_000_000),
        ("3KB", 3000),
        ("3KiB", 3072),
        (" 1TiB ", 1 << 40),
    ],
)
def test_parse_bytes(text: int | str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "bad", ["", "GiB", "-1MiB", "1.5B", "1e9", "12 parsecs", "1,5GiB", "٣MiB", "9" * 19 + "TiB", -1]
)
def test_what_is_no_quantity(bad: int | str) -> None:
    with pytest.raises(ValueError, match="ram_budget"):
        parse_bytes(bad, "ram_budget")


@pytest.mark.parametrize("bad", [True, 1.5, None, b"1"])
def test_wrong_types(bad: object) -> None:
    with pytest.raises(ValueError, match="must be an int or a string"):
        parse_bytes(bad)


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (0, 400000, 64 << 20, 3 << 29, 5 << 40)] == [
        "0 B",
        "400000 B",
        "64.0 MiB",
        "1.5 GiB",
        "5.0 TiB",
    ]


def test_default_budget() -> None:
    assert default_ram_budget(1000, 2000) == 1000
    assert default_ram_budget(10**9, 10**9 + 1) == 10**9 // 2 // 4096 * 4096


def test_this_machine() -> None:
    assert n_cores() >= 1
    assert available_ram_bytes() > 0


def machine(tmp_path: Path, cgroup: str, files: dict[str, str]) -> int:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return available_ram_bytes(proc, root)


def test_no_cgroup(tmp_path: Path) -> None:
    assert machine(tmp_path, "", {}) == 8000 * 1024


def test_cgroup_v2_takes_the_tightest_level(tmp_path: Path) -> None:
    files = {
        "a/b/memory.max": "max\n",
        "a/b/memory.current": "100\n",
        "a/memory.max": "500000\n",
        "a/memory.current": "300000\n",
        "a/memory.stat": "anon 1\ninactive_file 50000\n",
    }
    assert machine(tmp_path, "0::/a/b\n", files) == 250000


def test_cgroup_v1_of_a_container(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "700000\n",
        "memory/memory.usage_in_bytes": "100000\n",
        "memory/memory.stat": "total_inactive_file 1000\n",
    }
    assert machine(tmp_path, "4:cpu,cpuacct:/x\n3:memory:/docker/abc\n", files) == 601000


def test_a_full_cgroup_has_nothing_left(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n", {"memory.max": "1000\n", "memory.current": "3000\n"}) == 0

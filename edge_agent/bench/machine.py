"""What this machine is, how it is at the moment, and what that does to figures. Linux only."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edge_agent.contract.bench import Conditions, Machine

_CPUINFO: Final = "proc/cpuinfo"
_BOARDS: Final = ("proc/device-tree/model", "sys/class/dmi/id/product_name")
_CPUS: Final = "sys/devices/system/cpu"
_ZONES: Final = "sys/class/thermal"
_PI_FLAGS: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"
_VCGENCMD_S: Final = 5.0
_PI_NOW: Final = {
    0: "the supply voltage is too low",
    1: "the clock is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is reached",
}
_PI_SINCE_START: Final = 16  # bits: the same four, at any time since the start
_HOT_C: Final = 80.0  # where a Raspberry Pi begins to lower its clock
_SLOWER: Final = 0.9  # of the clock before: beyond what two readings of it differ by


def read_machine(root: Path = Path("/")) -> Machine:
    """What this machine is.

    Args:
        root: for tests, of a tree like that of the machine.
    """
    boards = (_text(root / path).strip("\0\n ") for path in _BOARDS)
    return Machine(
        board=next(filter(None, boards), ""),
        cpu=_cpu(_text(root / _CPUINFO)),
        arch=platform.machine(),
        cores=len(usable_cores()),
        system=platform.platform(),
        memory_bytes=_memory_bytes(root),
    )


def read_conditions(root: Path = Path("/"), *, vcgencmd: str | None = "vcgencmd") -> Conditions:
    """How the machine is now; None for what it does not tell.

    Args:
        root: for tests, of a tree like that of the machine.
        vcgencmd: the Raspberry Pi's program to ask where the kernel does not say; None for none.
    """
    cores = [root / _CPUS / f"cpu{number}" for number in usable_cores()]
    governors = {_text(core / "cpufreq/scaling_governor").strip() for core in cores} - {""}
    tops = _numbers(core / "cpufreq/cpuinfo_max_freq" for core in cores)
    throttled = _numbers(
        core / "thermal_throttle/core_throttle_count" for core in (root / _CPUS).glob("cpu[0-9]*")
    )
    return Conditions(
        governors=tuple(sorted(governors)) or None,
        clock_mhz=_clocks_mhz(root, cores),
        clock_mhz_max=max(tops) / 1e3 if tops else None,
        temperature_c=_temperatures(root / _ZONES),
        pi_flags=_pi_flags(root / _PI_FLAGS, vcgencmd),
        throttle_events=sum(throttled) if throttled else None,
    )


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def remarks(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """What makes figures doubtful that were measured between these two moments."""
    found = [
        f"the governor is {governor}: the clock follows the load, and short inferences may meet a "
        "slow one; 'performance' gives steadier figures"
        for governor in after.governors or ()
        if governor != "performance"
    ]
    found += _pi_remarks(before.pi_flags or 0, after.pi_flags or 0)
    if (events := (after.throttle_events or 0) - (before.throttle_events or 0)) > 0:
        found.append(f"the processor was throttled {events} times while measuring: cool it")
    hot = [name for name, value in (after.temperature_c or {}).items() if value >= _HOT_C]
    if hot:
        found.append(f"it was {_HOT_C:g} °C or hotter at the end ({', '.join(sorted(hot))})")
    was, came = max(before.clock_mhz or (0,)), max(after.clock_mhz or (0,))
    if 0 < came < _SLOWER * was and after.governors == ("performance",):
        found.append(f"the clock fell from {was:.0f} to {came:.0f} MHz while measuring")
    return tuple(found)


def _pi_remarks(before: int, after: int) -> list[str]:
    """What a Raspberry Pi's flags say: of this moment, and of what came up while measuring."""
    found = []
    for bit, what in _PI_NOW.items():
        since = 1 << (bit + _PI_SINCE_START)
        if after & 1 << bit:
            found.append(f"{what} now")
        elif after & since and not before & since:
            found.append(f"{what}: it came up while measuring")
        elif after & since:
            found.append(f"{what}: at some time since the start, perhaps before this")
    return found


def _cpu(cpuinfo: str) -> str:
    """The processor's name; empty on ARM, whose kernel knows numbers only."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE))
    return str(fields.get("model name", "")).strip()


def _memory_bytes(root: Path) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _clocks_mhz(root: Path, cores: list[Path]) -> tuple[float, ...] | None:
    """From the frequency driver, or what the processor says of itself where there is none."""
    clocks = [khz / 1e3 for khz in _numbers(core / "cpufreq/scaling_cur_freq" for core in cores)]
    if not clocks:
        cpuinfo = _text(root / _CPUINFO)
        said = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)
        clocks = [float(mhz) for number, mhz in enumerate(said) if number in usable_cores()]
    return tuple(clocks) or None


def _temperatures(folder: Path) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        for milli in _numbers([zone / "temp"]):
            kind = _text(zone / "type").strip() or zone.name
            name = kind if kind not in found else f"{kind} {zone.name}"
            found[name] = milli / 1e3
    return found or None


def _pi_flags(path: Path, vcgencmd: str | None) -> int | None:
    """The flags as a number; the kernel and ``vcgencmd`` both give hexadecimal."""
    said = _text(path).strip()
    if not said and vcgencmd is not None and (program := shutil.which(vcgencmd)):
        try:
            done = subprocess.run(
                [program, "get_throttled"],
                capture_output=True,
                text=True,
                timeout=_VCGENCMD_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        said = done.stdout.strip().removeprefix("throttled=")
    try:
        return int(said, 16)
    except ValueError:
        return None


def _numbers(paths: Iterable[Path]) -> list[int]:
    """The whole numbers in those of the files that hold one."""
    texts = (_text(path).strip() for path in paths)
    return [int(text) for text in texts if re.fullmatch(r"-?\d+", text)]


def _text(path: Path) -> str:
    """The content of a file that not every machine has."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""

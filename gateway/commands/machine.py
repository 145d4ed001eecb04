"""What `doctor` finds out about the machine: processor, cores, memory, clock. Facts come in, findings go out."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gateway.commands.common import size_text, time_text

Level = Literal["ok", "warn", "fail"]

_WANTED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "x86_64": (
        ("avx", "AVX"),
        ("avx2", "AVX2"),
        ("fma", "FMA"),
        ("f16c", "F16C"),
        ("avx512f", "AVX-512"),
        ("avx512_vnni", "AVX-512 VNNI"),
        ("avx_vnni", "AVX-VNNI"),
        ("avx512_bf16", "AVX-512 BF16"),
        ("amx_int8", "AMX"),
    ),
    "aarch64": (
        ("asimd", "NEON"),
        ("asimddp", "dot product"),
        ("i8mm", "int8 matmul"),
        ("sve", "SVE"),
        ("bf16", "BF16"),
    ),
}
"""Flags of /proc/cpuinfo that llama.cpp has kernels for, with their usual names."""
_NEEDED: Final = {"x86_64": ("avx2", "AVX2"), "aarch64": ("asimddp", "dot product instructions")}
_EARLIEST: Final = 1_767_225_600  # 2026-01-01: this version did not exist before


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `todo` says what to do about it; empty if it is ok."""

    subject: str
    level: Level
    text: str
    todo: str = ""


def check_processor(cpuinfo: str | None = None, machine: str | None = None) -> Finding:
    """The instruction sets that decide the speed. Without /proc/cpuinfo only the architecture is told."""
    machine = machine or platform.machine()
    text = _read("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    model = facts.get("model name") or machine
    if not flags:
        return Finding("processor", "ok", f"{model}; its instruction sets cannot be read here")
    known = [name for flag, name in _WANTED.get(machine, ()) if flag in flags]
    text = f"{model}: {', '.join(known) or 'no vector instructions that llama.cpp uses'}"
    flag, name = _NEEDED.get(machine, ("", ""))
    if flag and flag not in flags:
        return Finding("processor", "warn", text, f"Without {name} answers are several times slower; use small models.")
    return Finding("processor", "ok", text)


def check_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """The cores that this process may use, after affinity and the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup)
    text = f"{allowed} of {os.cpu_count()}"
    if quota is not None and quota < allowed:
        return Finding(
            "cores",
            "warn",
            f"{text}, limited to {quota:g} by the container",
            "Threads beyond the limit are paused in the middle of a step. Raise it, or set `threads` to match.",
        )
    if allowed < 2:
        return Finding("cores", "warn", text, "With one core the gateway and the engine wait for each other.")
    return Finding("cores", "ok", text)


def cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of time that the control group allows (version 2, then 1); None: no limit."""
    fields = _read(cgroup / "cpu.max").split()
    if not fields:
        fields = [_read(cgroup / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = int(fields[0]), int(fields[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control group allows (version 2, then 1); None: no limit."""
    text = _read(cgroup / "memory.max").strip() or _read(cgroup / "memory" / "memory.limit_in_bytes").strip()
    limit = int(text) if text.isdecimal() else 0
    return limit if 0 < limit < 1 << 60 else None


def check_memory(total: int, available: int, needs: Mapping[str, int]) -> Finding:
    """Whether each model of `needs` (bytes by name) fits what is available now, in bytes."""
    text = f"{size_text(available)} of {size_text(total)} available"
    never = [name for name, need in needs.items() if need > total]
    if never:
        return Finding("memory", "fail", text, f"{', '.join(never)} can never fit. Remove it, or use a smaller one.")
    tight = [f"{name} ({size_text(need)})" for name, need in needs.items() if need > available]
    if tight:
        return Finding("memory", "warn", text, f"At present there is no room for {', '.join(tight)}. Close something.")
    return Finding("memory", "ok", text + _largest(needs))


def check_limit(limit_mb: int, needs: Mapping[str, int]) -> Finding:
    """Whether the models of `needs` (bytes by name) fit together in `limits.memory_mb`."""
    limit, together = limit_mb << 20, sum(needs.values())
    text = f"{size_text(limit)} for all models, which together need about {size_text(together)}"
    if never := [name for name, need in needs.items() if need > limit]:
        return Finding("memory limit", "fail", text, f"{', '.join(never)} can never be loaded. Raise limits.memory_mb.")
    if together > limit:
        todo = "While some are loaded, requests for others get 503. Raise limits.memory_mb, or lower keep_alive_s."
        return Finding("memory limit", "warn", text, todo)
    return Finding("memory limit", "ok", text)


def check_clock(now: float, newest: Mapping[str, int]) -> Finding:
    """Whether the clock can be right, against the release and the times at which models came (Unix, s)."""
    text = f"{time_text(int(now))} {time.strftime('%Z')}"
    todo = "Set the clock (timedatectl set-ntp true): certificates, budgets and logs depend on it."
    if now < _EARLIEST:
        return Finding("clock", "fail", f"{text} is before this version was made", todo)
    ahead = [name for name, then in newest.items() if then > now + 300]
    if ahead:
        return Finding("clock", "warn", f"{text} is before the time at which {ahead[0]} came", todo)
    return Finding("clock", "ok", text)


def measured_memory() -> tuple[int, int]:
    """(total, available) bytes, within the container's limit."""
    import psutil

    memory = psutil.virtual_memory()
    limit = memory_limit()
    total = min(memory.total, limit) if limit else memory.total
    return total, min(memory.available, total)


def _largest(needs: Mapping[str, int]) -> str:
    if not needs:
        return ""
    name = max(needs, key=lambda name: needs[name])
    return f"; the largest model, {name}, needs about {size_text(needs[name])}"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""

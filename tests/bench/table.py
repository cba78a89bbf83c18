"""Figures, each with its goal, as a table in Markdown; and the machine that they are true of."""
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Row:
    what: str
    values: list  # one for each round
    unit: str = ""  # "" for a ratio
    goal: float = None
    at_least: bool = False  # the goal is a lower bound
    note: str = ""  # the absolute figures behind the ratio

    @property
    def value(self):
        """The median; of peaks (several rounds of something that must never be passed) too: the
        range stands beside it."""
        return statistics.median(self.values)

    def met(self):
        if self.goal is None:
            return ""
        # What would be printed as the goal is the goal.
        value = float(show(self.value))
        return "yes" if (value >= self.goal if self.at_least else value <= self.goal) else "**no**"

    def cells(self):
        goal = ""
        if self.goal is not None:
            goal = f"{'≥' if self.at_least else '≤'} {show(self.goal)}"
        spread = f"{show(min(self.values))} .. {show(max(self.values))}"
        unit = f" {self.unit}" if self.unit else ""
        return [self.what, show(self.value) + unit, spread if len(self.values) > 1 else "", goal,
                self.met(), self.note]


def show(value):
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(rows):
    head = ["measured", "median", "min .. max", "goal", "met", "absolute"]
    lines = [head, ["---"] * len(head)] + [row.cells() for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def first_line(command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return (done.stdout or done.stderr).strip().split("\n")[0]


def package(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True)
    return done.stdout or "?"


def machine():
    cpu = next((l.partition(":")[2].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                if l.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    debian = Path("/etc/debian_version").read_text().strip()
    nginx = next((p for p in ("nginx-light", "nginx-core", "nginx") if package(p) != "?"), "nginx")
    libraries = ", ".join(f"{name} {package(name)}" for name in
                          ("libmicrohttpd12", "libcurl4", "libgit2-1.5", "libssl3"))
    tcp = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return [f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GB of memory, virtual, shared with others",
            f"Linux {platform.release()}, Debian {debian}; loopback's TCP: {tcp}",
            f"{first_line(['git', '--version'])}, nginx {package(nginx)}, {libraries}"]

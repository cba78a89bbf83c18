"""A disk that fails when it is told to: steers the library that tests/support/faults.c is.

    faults = Faults(tmp_path / "faults", below=pannier.data)      before pannier starts
    Pannier(..., env=faults.env)
    faults.on(WRITE | SYNC, errno.ENOSPC)   from here on these fail, git's too
    faults.off()
    faults.kill(17)         kill -9 at the seventeenth operation from here on, whatever it is"""
import mmap
import os
import re
import struct
import subprocess
from pathlib import Path

from .pannier import binary

CREATE, WRITE, SYNC, RENAME, LINK, TRUNCATE, MKDIR, UNLINK = (1 << n for n in range(8))
ALL = (1 << 8) - 1

OPS, ERROR, SKIP, LETHAL, HIT = range(0, 20, 4)
BELOW, PART, SIZE = 20, 532, 660
SANITIZER_RUNTIME = re.compile(r"=> (\S*lib[at]san\.so\S*)")


def library():
    return os.environ.get("PANNIER_FAULTS") or str(Path(binary()).parent / "tests" / "faults.so")


def preload():
    """A sanitizer's runtime wants to be the first library of all."""
    linked = subprocess.run(["ldd", binary()], capture_output=True, text=True).stdout
    return " ".join(SANITIZER_RUNTIME.findall(linked) + [library()])


class Faults:
    def __init__(self, control, below):
        assert Path(library()).exists(), f"there is no {library()}: build it, or set PANNIER_FAULTS"
        with open(control, "w+b") as file:
            file.truncate(SIZE)
            self.map = mmap.mmap(file.fileno(), SIZE)
        self.text(BELOW, os.path.realpath(below))
        self.env = {"LD_PRELOAD": preload(), "FAULTS_CONTROL": str(control)}

    def text(self, at, value):
        raw = os.fsencode(value) + b"\0"
        self.map[at : at + len(raw)] = raw

    def number(self, at, value):
        self.map[at : at + 4] = struct.pack("=i", value)

    def arm(self, ops, error, lethal, skip, part):
        self.off()
        self.number(ERROR, error)
        self.number(LETHAL, lethal)
        self.number(SKIP, skip)
        self.number(HIT, 0)
        self.text(PART, part)
        self.number(OPS, ops)  # last: it starts it

    def on(self, ops, error, skip=0, part=""):
        """These operations fail with this errno, after so many that go well; part: only where it
        stands in the path below the folder."""
        self.arm(ops, error, 0, skip, part)

    def kill(self, at, ops=ALL, part=""):
        """kill -9 just before the at-th of these operations, pannier's or a git program's."""
        self.arm(ops, 0, 1, at - 1, part)

    def off(self):
        self.number(OPS, 0)

    @property
    def hits(self):
        """How many have failed since on()."""
        return struct.unpack("=I", self.map[HIT : HIT + 4])[0]

"""A slow line: passes stdin and stdout to a host and port, each piece late and at a limited rate. For ProxyCommand.

relay.py HOST PORT DELAY_S BYTES_PER_S
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 4096


def pass_on(read: Callable[[int], bytes], write: Callable[[bytes], object], delay_s: float, rate: float) -> None:
    """Copy until the end of input."""
    while data := read(PIECE):
        time.sleep(delay_s + len(data) / rate)
        write(data)


def main() -> None:
    """Connect and copy both ways until the other side ends."""
    host, port, delay_s, rate = sys.argv[1:]
    with socket.create_connection((host, int(port))) as line:
        there = (lambda size: os.read(0, size), line.sendall, float(delay_s), float(rate))
        threading.Thread(target=pass_on, args=there, daemon=True).start()
        pass_on(line.recv, lambda data: os.write(1, data), float(delay_s), float(rate))


if __name__ == "__main__":
    main()

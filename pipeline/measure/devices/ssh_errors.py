"""What ssh's own words mean, and what to do about them."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError

if TYPE_CHECKING:
    from pipeline.measure.devices.record import DeviceRecord

#: ssh's exit code where the failure is its own and not the remote command's.
OWN_FAILURE = 255
LAST_LINES = 3

_THERE = "the device's own (there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub)"
_CHANGED = f"""the host key is not the one that is known: the device was reinstalled, or something else answers in \
its place. Compare the fingerprint below with {_THERE}; only if they agree run: {{forget}} and then: {{scan}}"""
UNKNOWN = f"""the host key is not known yet, and nothing is sent to a stranger. Look at its fingerprint: {{look}} and \
compare it with {_THERE}; if they agree run: {{scan}}"""
_DENIED = """the device does not accept the key, and no password is asked for. Put your public key there: {copy} \
or name another private key (option identity)"""
#: What ssh says, and what is told of it. The first that fits counts.
_MEANINGS: tuple[tuple[str, str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", _CHANGED),
    ("No .*host key is known|Host key verification failed", UNKNOWN),
    (
        "UNPROTECTED PRIVATE KEY|bad permissions",
        "others can read the private key, so ssh does not use it: chmod 600 it",
    ),
    ("Permission denied|Too many authentication failures", _DENIED),
    ("Connection refused", "nothing listens there: start sshd on the device, or give its port: ssh://host:port"),
    ("Could not resolve hostname", "no machine with that name is known: check the name, or give its address"),
    ("No route to host|Network is unreachable", "there is no route to that address: same network? cable, Wi-Fi, VPN?"),
    ("timed out|not responding", "no answer: is the device on, and on this network?"),
    (
        "Bad configuration option|Can't open user config|Bad owner or permissions",
        "ssh does not accept its configuration",
    ),
    ("onnection (to .* )?(closed|reset)|Broken pipe|lost connection", "the connection was lost; try again"),
)


def explain(record: DeviceRecord, words: str) -> DeviceError:
    """Return the error for a failure of ssh itself: what it means, what to do, and ssh's last words."""
    meaning = next((text for pattern, text in _MEANINGS if re.search(pattern, words)), "ssh failed")
    told = meaning.format(**_commands(record)) if "{" in meaning else meaning
    lines = [line.strip() for line in words.strip().splitlines() if line.strip()]
    shown = [line for line in lines if "fingerprint" in line.lower() or line.startswith("SHA256:")]
    return DeviceError("\n  ".join([f"{record.url}: {told}", *shown, *lines[-LAST_LINES:]]))


def _commands(record: DeviceRecord) -> dict[str, str]:
    """Return the commands that a user may have to run for this device, quoted for a shell."""
    address, known = record.address, record.known_hosts
    port = ["-p", str(address.port)] if address.port else []
    scan = shlex.join(["ssh-keyscan", *port, address.what])
    host = f"[{address.what}]:{address.port}" if address.port else address.what
    file = shlex.quote(str(known)) if known else "~/.ssh/known_hosts"
    identity = ["-i", str(record.identity)] if record.identity else []
    whom = f"{address.user}@{address.what}" if address.user else address.what
    return {
        "look": f"{scan} | ssh-keygen -lf -",
        "scan": f"{scan} >> {file}",
        "forget": shlex.join(["ssh-keygen", *(["-f", str(known)] if known else []), "-R", host]),
        "copy": shlex.join(["ssh-copy-id", *identity, *port, whom]),
    }

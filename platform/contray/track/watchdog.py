"""Runs a command for as long as whoever started it lives: `python watchdog.py COMMAND...`, whose standard input is a pipe that the starter holds.

However the starter ends, killed too, the pipe closes, and the command and all that it started are ended with it. Once the command has ended, so does this.
Needs a session of its own, whose processes it ends.
"""

import os
import select
import signal
import subprocess
import sys

PATIENCE = 10.0  # seconds that the command has to end by itself


def main(command: list[str]) -> int:
    """The command's exit status; as shells have it, 128 and the signal that ended it."""
    signal.signal(signal.SIGTERM, lambda signum, frame: None)  # the whole session is sent it: the command ends, and then this
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        while process.poll() is None:
            ready, _, _ = select.select([0], [], [], 0.5)
            if ready and not os.read(0, 1):
                os.killpg(0, signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                finally:
                    os.killpg(0, signal.SIGKILL)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

r"""Starts one training process for each host, and starts it again when another one is lost.

On one machine, over the loopback:

    python -m tpu.launch --processes=2 -- -m experiments.train --strategy=multiworker ...

On several machines, the same command on each:

    python -m tpu.launch --hosts=host0:2222,host1:2222 -- -m experiments.train \
        --strategy=multiworker --output_dir=/shared/run ...

What follows `--` are arguments of this Python. Each process gets its TF_CONFIG. When a process was
killed, or left with status 75 because another one did, all of this machine are ended and started
again, and go on from the last checkpoint; any other status is a mistake that would be repeated, and
ends the launch. SIGTERM and Ctrl-C are passed on: the processes save and leave. They never outlive
the launcher, however it ends.

TensorFlow's servers ask nobody who he is. With --processes they run, where the system allows it, in
a network namespace of their own that holds the loopback only; see tpu/README.md.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from absl import flags

from experiments import binary, ranges

FLAGS = flags.FLAGS

EXIT_START_AGAIN = 75

_POLL = 0.05  # seconds between two looks at the processes
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def define_flags() -> None:
    """Defines the flags of the launcher."""
    flags.DEFINE_integer("processes", None, "Processes on this machine.", lower_bound=1)
    flags.DEFINE_list("hosts", None, "host:port of each process, the first is the chief.")
    flags.DEFINE_integer(
        "index",
        None,
        "This machine's place in --hosts; by default found by its name.",
        lower_bound=0,
    )
    flags.DEFINE_integer("max_restarts", 10, "Restarts of all processes.", lower_bound=0)
    flags.DEFINE_float("restart_delay", 2.0, "Seconds before a restart.", **ranges.SECONDS)
    flags.DEFINE_float(
        "grace",
        60.0,
        "Seconds that processes have to leave before they are killed.",
        **ranges.SECONDS,
    )
    flags.DEFINE_string("worker_logs", None, "Folder of worker_N.log; stdout if not given.")
    flags.DEFINE_boolean(
        "isolate",
        True,
        "With --processes: a network of their own, where the system allows it. Nothing can be "
        "downloaded in it.",
    )
    flags.mark_flags_as_mutual_exclusive(["processes", "hosts"], required=True)
    flags.register_multi_flags_validator(
        ["index", "hosts"],
        lambda values: (
            values["index"] is None
            or (values["hosts"] is not None and values["index"] < len(values["hosts"]))
        ),
        "index must be a place in --hosts",
    )


def free_ports(count: int) -> list[int]:
    """Ports on the loopback that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def own_index(hosts: Sequence[str]) -> int:
    """The place of this machine in a list of host:port, by its name or address.

    Raises:
        ValueError: if it is not in the list, or more than once.
    """
    names = {socket.gethostname(), socket.getfqdn(), socket.gethostname().split(".")[0]}
    try:
        names.update(socket.gethostbyname_ex(socket.gethostname())[2])
    except OSError:
        pass
    found = [i for i, host in enumerate(hosts) if host.rpartition(":")[0] in names]
    if len(found) != 1:
        raise ValueError(
            f"--hosts={','.join(hosts)} names {sorted(names)} {len(found)} times; give --index"
        )
    return found[0]


def isolate() -> bool:
    """Moves this process, and those that it starts, into a network that holds the loopback only.

    Nobody outside can then reach the ports that they listen on. For a process without threads.

    Returns:
        Whether the system allowed it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if user == 0 and libc.unshare(_CLONE_NEWNET) == 0:
        pass
    elif libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    else:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        _, state = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", state | _IFF_UP))
    return True


class Process:
    """One process of the cluster, as often as it is started.

    Args:
        command: list of the program and its arguments.
        hosts: host:port of all processes.
        index: its place among them.
        log_dir: folder of its output, None for that of the launcher.
    """

    def __init__(
        self,
        command: Sequence[str],
        hosts: Sequence[str],
        index: int,
        log_dir: str | None = None,
    ) -> None:
        self.index = index
        self._command = list(command)
        self._environment = dict(os.environ)
        self._environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": index}}
        )
        self._log_path = log_dir and os.path.join(log_dir, f"worker_{index}.log")
        self._process: Any = None  # the subprocess.Popen, from `start` on

    def start(self) -> None:
        """Starts it."""
        log = open(self._log_path, "a") if self._log_path else None
        try:
            # A session of its own: Ctrl-C comes from the launcher only, once.
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log and subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
        finally:
            if log:
                log.close()

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def send(self, signum: int) -> None:
        """Sends a signal, if it runs."""
        self._process.send_signal(signum)


def die_with(parent: int) -> Callable[[], None]:
    """What a new process does first: it asks the kernel to be killed when its parent ends."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has ended in between
            os._exit(EXIT_START_AGAIN)

    return ask


class _Stop:
    """The signal that the launcher got, passed on once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum


def launch(processes: Sequence[Process], max_restarts: int, delay: float, grace: float) -> int:
    """Runs processes side by side, all again where that helps.

    Returns:
        0 if all ended so; 128 + its number if a signal came; else the first other status.
    """
    stop = _Stop()
    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        for start in range(max_restarts + 1):
            if start:
                _sleep(delay, stop)
            if stop.signum:
                return 128 + stop.signum
            statuses = _generation(processes, grace, stop)
            if stop.signum:
                return 128 + stop.signum
            failed = {i: status for i, status in statuses.items() if status}
            for index, status in failed.items():
                print(f"Worker {index} ended with status {status}.", file=sys.stderr, flush=True)
            final = [s for s in failed.values() if s > 0 and s != EXIT_START_AGAIN]
            if final or not failed:
                return final[0] if final else 0
        return EXIT_START_AGAIN
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _generation(processes: Sequence[Process], grace: float, stop: _Stop) -> dict[int, int]:
    """Starts all and waits for all: the first that fails gives the others some time to leave.

    Returns:
        dict from index to status, without those that had to be killed for another one's failure.
    """
    for process in processes:
        process.start()
    deadline, passed_on, killed = None, 0, set()
    while True:
        statuses = {process.index: process.status() for process in processes}
        running = [process for process in processes if statuses[process.index] is None]
        if not running:
            ended = {i: status for i, status in statuses.items() if status is not None}
            return {i: status for i, status in ended.items() if i not in killed}
        if stop.signum and not passed_on:
            passed_on = stop.signum
            for process in running:
                process.send(passed_on)
        if deadline is None and (passed_on or any(statuses.values())):
            wrong = any(s and s > 0 and s != EXIT_START_AGAIN for s in statuses.values())
            deadline = time.monotonic() + (0 if wrong else grace)
        if deadline is not None and time.monotonic() > deadline:
            for process in running:
                killed.add(process.index)
                process.send(signal.SIGKILL)
        time.sleep(_POLL)


def _sleep(seconds: float, stop: _Stop) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stop.signum:
        time.sleep(_POLL)


def main(argv: list[str]) -> int:
    """Launches what the flags say."""
    if len(argv) < 2:
        raise ValueError("nothing to start: give it after --, like -- -m experiments.train")
    if FLAGS.worker_logs:
        os.makedirs(FLAGS.worker_logs, exist_ok=True)
    if FLAGS.processes:
        alone = FLAGS.isolate and isolate()
        ports = free_ports(FLAGS.processes)
        hosts, indices = [f"localhost:{port}" for port in ports], list(range(FLAGS.processes))
        if not alone:
            listed = ", ".join(map(str, ports))
            sys.stderr.write(
                f"The workers listen on all addresses of this machine: ports {listed} must not be "
                "reachable from outside, see tpu/README.md.\n"
            )
    else:
        hosts = FLAGS.hosts
        indices = [own_index(hosts) if FLAGS.index is None else FLAGS.index]
    command = [sys.executable, *argv[1:]]
    processes = [Process(command, hosts, index, FLAGS.worker_logs) for index in indices]
    return launch(processes, FLAGS.max_restarts, FLAGS.restart_delay, FLAGS.grace)


if __name__ == "__main__":
    binary.start(define_flags, main, arguments=True)

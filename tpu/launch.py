r"""Starts one training process for each host, and starts it again when another one is lost.

On one machine, over the loopback:

    python -m tpu.launch --processes=2 -- -m experiments.train --strategy=multiworker ...

On several machines, the same command on each:

    python -m tpu.launch --hosts=host0:2222,host1:2222 -- -m experiments.train \
        --strategy=multiworker --output_dir=/shared/run ...

What follows `--` are arguments of this Python. Each process gets its TF_CONFIG. A process that was
killed, or that left with status 75 because another one did, is started again and goes on from the
last checkpoint; any other status is a mistake that would be repeated, and ends the launch.
"""

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import threading
import time

from absl import app, flags

FLAGS = flags.FLAGS

EXIT_START_AGAIN = 75


def define_flags():
    """Defines the flags of the launcher."""
    flags.DEFINE_integer("processes", None, "Processes on this machine.", lower_bound=1)
    flags.DEFINE_list("hosts", None, "host:port of each process, the first is the chief.")
    flags.DEFINE_integer(
        "index",
        None,
        "This machine's place in --hosts; by default found by its name.",
        lower_bound=0,
    )
    flags.DEFINE_integer("max_restarts", 10, "Restarts of each process.", lower_bound=0)
    flags.DEFINE_float("restart_delay", 2.0, "Seconds before a restart.", lower_bound=0.0)
    flags.DEFINE_string("worker_logs", None, "Folder of worker_N.log; stdout if not given.")
    flags.mark_flags_as_mutual_exclusive(["processes", "hosts"], required=True)


def free_ports(count):
    """Ports on the loopback that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def own_index(hosts):
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


class Process:
    """One process of the cluster: run to its end, started again where that helps."""

    def __init__(self, command, hosts, index, log_dir=None):
        self.index = index
        self._command = command
        self._environment = dict(os.environ)
        self._environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        )
        self._log_path = log_dir and os.path.join(log_dir, f"worker_{index}.log")
        self._stopped = threading.Event()
        self._process = None

    def run(self, max_restarts, delay):
        """The status of the last start; negative for a signal."""
        log = open(self._log_path, "a") if self._log_path else None
        status = EXIT_START_AGAIN
        for start in range(max_restarts + 1):
            if start:
                time.sleep(delay)
            if self._stopped.is_set():
                break
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log and subprocess.STDOUT
            )
            if self._stopped.is_set():
                self._process.kill()
            status = self._process.wait()
            if status == 0 or (status > 0 and status != EXIT_START_AGAIN):
                break
            print(f"Worker {self.index} ended with status {status}.", file=sys.stderr, flush=True)
        return status

    def stop(self):
        """Ends the process and prevents its restart."""
        self._stopped.set()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def launch(processes, max_restarts, delay):
    """Runs processes side by side; the first that fails for good ends the others.

    Returns:
        The first status that is not zero, or zero.
    """
    result = 0
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        futures = [pool.submit(each.run, max_restarts, delay) for each in processes]
        for future in concurrent.futures.as_completed(futures):
            status = future.result()
            if status and not result:
                result = status
                for each in processes:
                    each.stop()
    return result


def main(argv):
    """Launches what the flags say."""
    if len(argv) < 2:
        raise app.UsageError("Nothing to start: give it after --, like -- -m experiments.train")
    if FLAGS.worker_logs:
        os.makedirs(FLAGS.worker_logs, exist_ok=True)
    if FLAGS.processes:
        hosts = [f"localhost:{port}" for port in free_ports(FLAGS.processes)]
        indices = range(FLAGS.processes)
    else:
        hosts = FLAGS.hosts
        try:
            index = own_index(hosts) if FLAGS.index is None else FLAGS.index
        except ValueError as error:
            raise app.UsageError(str(error)) from error
        indices = [index]
    command = [sys.executable, *argv[1:]]
    processes = [Process(command, hosts, index, FLAGS.worker_logs) for index in indices]
    status = launch(processes, FLAGS.max_restarts, FLAGS.restart_delay)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    define_flags()
    app.run(main)

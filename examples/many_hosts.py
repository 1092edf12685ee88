"""Classify handwritten digits as `mnist.py` does, with the work divided over processes.

    python examples/many_hosts.py --processes 4     # four processes on this machine
    python examples/many_hosts.py                   # on every host of a TPU pod or of
                                                    # a cluster that Slurm or MPI runs
    python examples/many_hosts.py --coordinator HOST:PORT --processes 2 --process 0
                                                    # hosts that nothing else names

All processes run this program. JAX's runtime connects them; each takes its part of the
digits, and process 0 prints and saves.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import command
import digits
import jax
import mnist
import numpy as np

from rnnjax import training

LOST = 3  # the status of a process that ends because another one did


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add(
        "--processes",
        type=command.positive,
        help="how many there are; without --process they are started here",
    )
    add("--process", type=int, help="which of them this one is, counted from 0")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 can be reached")
    add(
        "--devices",
        type=command.positive,
        help="CPU devices of each process, in place of accelerators",
    )
    add(
        "--heartbeat",
        type=command.positive,
        default=10,
        help="seconds without a sign of life after which a process is lost (10)",
    )
    add(
        "--patience",
        type=command.positive,
        default=120,
        help="seconds to wait for the others at the start (120)",
    )
    add("--hidden", type=command.positive, default=128)
    add("--epochs", type=command.positive, default=10)
    add(
        "--batch-size",
        type=command.positive,
        default=128,
        help="of all processes together (128)",
    )
    digits.add_folder(parser)
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    command.add_run(
        parser,
        "runs/many_hosts",
        plot="write pictures to --out",
        quick="at most 2 epochs of 2,000 digits",
    )
    options = parser.parse_args(arguments)
    if (options.process is None) != (options.coordinator is None):
        parser.error("--process and --coordinator belong together")
    if options.process is not None and not options.processes:
        parser.error("--process needs --processes, the number of all of them")
    if options.quick:
        options.epochs = min(options.epochs, 2)
    options.model, options.read_out, options.lr = "lstm", "last", None
    return options


def main(options: argparse.Namespace) -> None:
    if options.worker:
        work(options)
    else:
        command.check_out(options)
        supervise(options)


def connect(options: argparse.Namespace) -> None:
    """Make this process one of those that train together."""
    if options.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        # On a pod and under Slurm or MPI all of these are found out when left as None.
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=options.patience,
            heartbeat_timeout_seconds=options.heartbeat,
        )
    except ValueError as error:
        command.refuse(
            f"the processes could not be connected ({error}); write --processes 2 to "
            "start two here, or --coordinator, --processes and --process on each host"
        )


def part(images: digits.Images) -> digits.Images:
    """What this process takes: the parts of all are the whole, in their order."""
    edges = np.arange(jax.process_count() + 1) * len(images.labels)
    edges //= jax.process_count()
    mine = slice(*edges[jax.process_index() :][:2])
    return digits.Images(*(a[mine] for a in images))


def train(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    say = print if jax.process_index() == 0 else lambda line: None
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    say(training.environment())
    data = digits.read(options)
    # Any number of devices that divides the batch then divides the digits too.
    whole = len(data.train.labels) // options.batch_size * options.batch_size
    chosen, score = digits.Images(*(a[:whole] for a in data.train)), data.score
    say(digits.described(data._replace(train=chosen)))
    say(
        f"processes {jax.process_count()}, devices {jax.device_count()}, batch "
        f"{options.batch_size}"
    )

    model = mnist.build(options.model, options.hidden, options.read_out)
    optimizer = mnist.optimizer_for(
        options, whole // options.batch_size * options.epochs
    )
    key_init, key_train = jax.random.split(jax.random.key(options.seed))
    logits, loss = mnist.functions(model)

    def read(params):
        found = training.predict(logits, params, part(score).images, mesh=mesh)
        return np.asarray(found).argmax(axis=-1)

    def evaluate(params):
        return {f"{data.scored_on}_accuracy": np.mean(read(params) == score.labels)}

    state = training.init(mnist.init(model, key_init), optimizer, key_train)
    names = ("hidden", "batch_size", "seed", "epochs")
    config = {name: getattr(options, name) for name in names}
    config["data"] = digits.fingerprint(chosen)
    with command.refusals(TypeError, ValueError, OSError):
        train_epoch = training.epoch(
            loss, optimizer, batch_size=options.batch_size, mesh=mesh
        )
        history = []
        if options.resume:
            state, history = training.resume(options.out, state, config, mesh=mesh)
            say(f"going on with {options.out} after epoch {len(history)}")
    state, history = training.fit(
        train_epoch,
        state,
        part(chosen),
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        overwrite=options.overwrite,
        mesh=mesh,
    )
    found = read(state.params)
    if options.plot and jax.process_index() == 0:
        mnist.plot(options.out, history, data.scored_on, score, found)
    say(digits.final(data, found, history, began))


# Processes that end together.


def supervise(options: argparse.Namespace) -> None:
    """Run the processes of this host, and say in one line if one of all is lost.

    JAX's runtime may end a process whose partner is gone outside of Python, where
    nothing can be caught, so another process waits for it here. The other way round, a
    worker ends when the one that waits for it does: its input is then at its end.
    """
    shared, numbers = [sys.executable, *sys.argv, "--worker"], [options.process]
    if options.processes and options.process is None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            shared += ["--coordinator", f"localhost:{free.getsockname()[1]}"]
        numbers = list(range(options.processes))
        shared += ["--devices", str(options.devices or 1), "--process"]
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in numbers]
        workers = []
        for number, file in zip(numbers, said, strict=True):
            arguments = [*shared, str(number)] if shared[-1] == "--process" else shared
            workers.append(
                subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=file)
            )
        statuses = [worker.wait() for worker in workers]
        # A refusal or an error of the program is the same in all, or ended the others.
        own = [i for i, status in enumerate(statuses) if status in (1, 2)]
        for i in own[:1] or [i for i, status in enumerate(statuses) if not status]:
            said[i].seek(0)
            sys.stderr.write(said[i].read().decode(errors="replace"))
    if own:
        sys.exit(statuses[own[0]])
    if any(statuses):
        lost = what_is_lost(options.out, dict(zip(numbers, statuses, strict=True)))
        print(f"{Path(sys.argv[0]).name}: {lost}", file=sys.stderr)
        sys.exit(LOST)


def what_is_lost(out: Path, statuses: dict[int | None, int]) -> str:
    """A sentence from the statuses of this host's processes, by their numbers."""
    killed = [n for n, s in statuses.items() if s < 0 and s != -signal.SIGABRT]
    which = (killed or [n for n, s in statuses.items() if s])[0]
    name = "process" if which is None else f"process {which}"
    how = "has lost another one and ended"
    if killed:
        how = f"was ended by signal {-statuses[which]}, and the others end with it"
    kept = "nothing is saved yet: start again"
    if (out / "checkpoint.npz").exists():
        kept = f"{out} has the last full epoch: add --resume to go on"
    return f"{name} {how}; {kept}"


def work(options: argparse.Namespace) -> None:
    """Be one of the processes; on an error end at once.

    Python would wait for the others at its end, and they may be gone.
    """
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    # What is written outside of Python goes where errors go: gloo greets its peers.
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        connect(options)
        train(options)
        jax.distributed.shutdown()
    except BaseException as error:
        status = 1
        if isinstance(error, SystemExit):
            status = error.code
        elif isinstance(error, OSError | FloatingPointError):
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
            if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
                status = LOST
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _end_with_the_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(LOST)


if __name__ == "__main__":
    command.run(parse, main)

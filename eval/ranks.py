"""Several processes that share one evaluation: which of it is whose, and when all have done theirs.

The deciding choice: the environment says so, as torchrun and ``accelerate launch`` write it (RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), and ``--processes N`` starts processes with the same variables: there is one way in. All
that is ever exchanged is "I have got here".
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process

PATIENCE = timedelta(days=7)  # the first process waits for the last one's share
FAILED = 2  # exit code after a user's mistake, as `eval.__main__` has it


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are; alone by default."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether a piece of work is this process's: pieces are dealt in turn."""
        return number % self.world == self.rank

    def wait(self) -> None:
        """Until all have come here. Ends this process if another has ended: that one says why."""
        if self.world == 1:
            return
        import torch.distributed as dist

        try:
            dist.barrier()
        except RuntimeError:
            raise SystemExit(FAILED + 1) from None


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that the environment speaks of.

    Raises:
        ValueError: the environment speaks of several processes and does not say how they meet.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"WORLD_SIZE is set, and the processes do not find each other ({error})") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def device() -> str | None:
    """This process's own GPU where there are several processes; None leaves the choice to the loader."""
    import torch

    if os.environ.get("WORLD_SIZE", "1") == "1" or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def launched(argv: list[str], count: int) -> int:
    """Run ``python -m eval`` with ``argv`` in ``count`` processes of this machine.

    Returns the exit code of the first that fails, or 0. They end when one of them fails, and when this process does.
    """
    context = get_context("spawn")
    port = _free_port()
    workers = [context.Process(target=_work, args=(argv, rank, count, port)) for rank in range(count)]
    for worker in workers:
        worker.start()
    try:
        return _first_failure(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _first_failure(workers: list) -> int:
    running = list(workers)
    while running:
        connection.wait([worker.sentinel for worker in running])
        ended = [worker for worker in running if worker.exitcode is not None]
        for worker in ended:
            running.remove(worker)
            if worker.exitcode < 0:
                place = f"process {workers.index(worker) + 1} of {len(workers)}"
                print(f"error: {place} was ended by signal {-worker.exitcode}", file=sys.stderr)
                return 1
        if code := max((worker.exitcode for worker in ended), default=0):
            return code
    return 0


def _work(argv: list[str], rank: int, world: int, port: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // world)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is imported
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from eval.__main__ import main

    sys.exit(main(argv))


def _end_with_parent() -> None:
    """A killed parent cannot end its children; they would go on and keep the directory locked."""
    parent_process().join()
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

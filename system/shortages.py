"""What a machine has too little of, as a sentence: memory that is full, processes killed for it."""

from __future__ import annotations

import re
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from traceback import walk_tb

FULL = re.compile(r"out of memory|can't allocate memory|unable to allocate|ALLOC_FAILED", re.I)
WANTED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (bytes|[KMGTP]iB)", re.I)
LOADER = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
LESS = (
    "less is taken, in training, by train.accumulate=2 (the same steps, each in two turns), "
    "train.recompute=true, train.bf16=true, or a smaller train.batch_size"
)


def shortage(error: BaseException) -> str | None:
    """What a user can do about an error that comes of too little memory; None for another error.

    PyTorch tells of a killed loader process again, wherever the program is by then: not any more.
    """
    if _of_a_loader(error):
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return (
            "a process that loads pictures was killed, as a system does that runs out of memory "
            "(/dev/shm, too): take fewer of them, or train.num_workers=0"
        )
    if isinstance(error, BrokenProcessPool):
        return "a process was killed, as a system does that runs out of memory: take fewer of them"
    said = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and FULL.search(said)):
        whose = "the GPU's" if re.search("CUDA|CUBLAS|CUDNN|HIP|MPS", said) else "this machine's"
        return f"{whose} memory is full{_wanted(said)}; {LESS}"
    return None


def _of_a_loader(error: BaseException) -> bool:
    """A killed loader process shows as an error of its own, or of the pipe to it."""
    if isinstance(error, RuntimeError) and LOADER.search(str(error)):
        return True
    frames = (frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, (ConnectionError, EOFError)) and any(
        name.replace("\\", "/").endswith("torch/utils/data/dataloader.py") for name in frames
    )


def _wanted(said: str) -> str:
    found = WANTED.search(said)
    if not found:
        return ""
    amount = f"{float(found[1]) / 1e9:,.1f} GB" if found[2] == "bytes" else " ".join(found.groups())
    return f" ({amount} more were wanted)"

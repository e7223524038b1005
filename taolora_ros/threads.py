"""How many threads compute: one."""

from __future__ import annotations


def use_one_thread() -> None:
    """Let PyTorch, and the BLAS of NumPy and SciPy if loaded, compute in the caller's thread.

    Windows and matrices are small here: threads that wait for each other on busy cores make them
    5 to 30 times slower than one thread is. Holds for the whole process.
    """
    import torch  # takes seconds, so only when it is needed
    from threadpoolctl import threadpool_limits
    torch.set_num_threads(1)
    threadpool_limits(1, 'blas')

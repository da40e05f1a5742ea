"""Tests. One thread a process: they run side by side, and threads that wait for each other's core wait long."""

import os

from w2w_hub.common.threads import wait_quietly

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before anything imports NumPy
    os.environ.setdefault(_name, "1")
wait_quietly()

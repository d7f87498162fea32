"""Settings that every test shares: examples that hypothesis draws, interrupts that arrive, one thread of BLAS."""

import os
import signal

import scipy.linalg  # noqa: F401 - loads its BLAS, and numpy's
from hypothesis import settings
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # small matrices of two workers of pytest: more threads wait for one another

# Scripts that need what the tests do not install.
collect_ignore = ["data/formats/make_torch.py", "extra/fuzz_headers.py"]

settings.register_profile("default", deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

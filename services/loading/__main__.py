"""`python -m services.loading` makes a load: see swarm.py. `longthink load` starts it."""

from __future__ import annotations

import signal

# Told to end while it is still starting, it ends, and has nothing to say of it.
signal.signal(signal.SIGINT, signal.SIG_DFL)

# Before anything that opens a socket: it has all sockets of this process wait without blocking.
import locust  # noqa: E402, F401

from services.loading.swarm import main  # noqa: E402

main()

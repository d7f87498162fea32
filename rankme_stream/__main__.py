"""Entry point of the ``rankme`` command and of ``python -m rankme_stream``; imports next to nothing by itself."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command; signals wait until they are handled, which is before its modules are imported."""
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    from rankme_stream.cli.signals import Signal, Signals

    signals = Signals()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)  # a signal that waited is raised here
        from rankme_stream.cli.commands import main as run

        run(signals=signals)
    except Signal as arrived:
        arrived.end()


if __name__ == "__main__":
    main()

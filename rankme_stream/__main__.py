"""Entry point of the ``rankme`` command and of ``python -m rankme_stream``."""

from __future__ import annotations

from rankme_stream.cli.signals import Signal, Signals


def main() -> None:
    """Run the command; signals are handled before its modules are imported, which takes a while."""
    signals = Signals()
    try:
        from rankme_stream.cli.commands import main as run

        run(signals=signals)
    except Signal as arrived:
        arrived.end()


if __name__ == "__main__":
    main()

"""Entry point of ``python -m rankme_stream``, the same as the ``rankme`` command."""

from rankme_stream.cli.commands import main

main()

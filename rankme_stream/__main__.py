"""``python -m rankme_stream`` is the ``rankme`` command."""

from rankme_stream.cli.commands import main

main()

"""The group of commands: help and version are printed as everything else is, on whatever stdout there is."""

from __future__ import annotations

import click

from rankme_stream.cli.streams import print_out


class Command(click.Command):
    """A command whose help is printed as everything else is."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _print_help
        return option


class Group(Command, click.Group):
    command_class = Command


def _print_help(ctx: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    if is_given:
        print_out(ctx.get_help())
        ctx.exit()


def print_version(ctx: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    if is_given:
        from rankme_stream import __version__

        print_out(f"rankme, version {__version__}")
        ctx.exit()

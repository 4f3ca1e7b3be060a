"""A command group whose commands are imported when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from vllm_conda.errors import UsageError, did_you_mean


class LazyGroup(click.Group):
    """A group that imports a command's module on first use and suggests near names.

    Args:
        registry: Name -> ``module:attribute``. `--help` of another command needs none of them.
    """

    def __init__(self, *arguments: Any, registry: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.registry = registry

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self.registry)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        target = self.registry.get(name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.registry and not args[0].startswith("-"):
            raise UsageError(
                f"Unknown command {args[0]!r}.{did_you_mean(args[0], self.registry)}",
                f"Commands: {', '.join(sorted(self.registry))}.",
            )
        return super().resolve_command(context, args)

"""A command's options in a file, TOML: each by its name on the command line, and nothing else."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.core.errors import BenchError, unknown

OWN = ("config", "save-config", "dry-run")  # of the command line alone


class Configured(click.Command):
    """A command that takes its options from a file too, and writes them to one; those that are typed come first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As usual, of what the file says and then what was typed.

        Raises:
            BenchError: the file is no TOML, or has something that is no option of this command.
        """
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        asked: dict[str, Any] = typed
        given = self._given(Path(asked["config"])) if asked.get("config") else []
        left = super().parse_args(ctx, [*given, *args])
        if asked.get("save_config"):
            ctx.meta["bench.config"] = Path(asked["save_config"]), self._toml([*given, *args])
        return left

    def invoke(self, ctx: click.Context) -> Any:
        """As usual, after the options were written where that was asked for."""
        if found := ctx.meta.get("bench.config"):
            path, text = found
            try:
                path.write_text(text, encoding="utf-8")
            except UnicodeEncodeError as error:  # the name of a file need not be text
                line = text[: error.start].rpartition("\n")[2]
                raise BenchError(
                    f"--save-config: TOML is UTF-8 and can't hold {line.partition(' ')[0]}, whose name is in another "
                    "encoding. Rename that."
                ) from None
            click.echo(f"options written to {path}", err=True)
        return super().invoke(ctx)

    @property
    def _options(self) -> dict[str, click.Option]:
        """Name on the command line, without dashes -> option."""
        options = (option for option in self.params if isinstance(option, click.Option))
        named = {max(option.opts, key=len).removeprefix("--"): option for option in options}
        return {name: option for name, option in named.items() if name not in OWN}

    def _given(self, path: Path) -> list[str]:
        """What the file says, as one would type it."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BenchError(
                f"--config {path} can't be read: {reason}. Write TOML: an option and its value on each line, such as "
                f'suite = "sinusoid"; `bench {self.name} ... --save-config FILE` makes one.'
            ) from None
        options, words = self._options, list[str]()
        for name, value in found.items():
            if name not in options:
                raise unknown(f"option in {path}", name, options, "Each is written as on the command line.")
            words += _words(name, value, options[name], path)
        return words

    def _toml(self, args: Sequence[str]) -> str:
        """All options as they stand, those too that are not typed."""
        typed, _, _ = self.make_parser(click.Context(self)).parse_args(args=list(args))
        context, lines = click.Context(self, info_name=self.name), [f"# bench {self.name} --config FILE"]
        for name, option in self._options.items():
            value = typed.get(option.name or "")
            if value is None:
                value = option.value_from_envvar(context)
            if value is None and not option.required and not option.multiple:
                value = option.get_default(context)
            if value is not False and isinstance(value, (str, int, float, list)):  # else nobody says it: click's UNSET
                lines.append(f"{name} = {_literal(value)}")
        return "\n".join(lines) + "\n"


def _words(name: str, value: object, option: click.Option, path: Path) -> list[str]:
    if option.is_flag:
        if not isinstance(value, bool):
            raise BenchError(f"{path}: {name} = {_literal(value)} is a switch. Write {name} = true, or false.")
        return [f"--{name}"] if value else []
    values = value if option.multiple and isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, (str, int, float)) for each in values):
        form = "a text, a number or a list of them" if option.multiple else 'a text or a number, such as "0,1,2" or 3'
        raise BenchError(f"{path}: {name} takes {form}, as on the command line, not {_literal(value)}.")
    return [word for each in values for word in (f"--{name}", str(each))]


def _literal(value: object) -> str:
    """As TOML writes it; a whole number without its quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    whole = text.isascii() and text.isdecimal() and str(int(text)) == text
    return text if whole else json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def config_options(command: Any) -> Any:
    """The options that read the others from a file and write them to one."""

    def takes(_: click.Context, __: click.Parameter, ___: Path | None) -> None:
        """Nothing: `Configured` has seen it."""

    path = click.Path(path_type=Path, dir_okay=False)
    command = click.option(
        "--save-config", type=path, metavar="FILE", expose_value=False, callback=takes,
        help="Write all options to this file, for --config, and go on.",
    )(command)  # fmt: skip
    return click.option(
        "--config", type=path, metavar="FILE", expose_value=False, callback=takes,
        help="Take options from this TOML file, each by its name; those that are typed come first.",
    )(command)  # fmt: skip

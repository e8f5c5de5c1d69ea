"""Whose option is it? The rule for commands that run a script, and the Typer command that applies it.

    cordee run [OPTIONS] SCRIPT [OPTIONS and script arguments] [-- script arguments]

- Before SCRIPT every option is Cordee's.
- After SCRIPT, what is spelt exactly like one of Cordee's options (`--workers 3`, `--workers=3`, `-o json`) is
  Cordee's; everything else goes to the script, in its order.
- After `--` everything goes to the script.

So `cordee run train.py --workers 1:3 --epochs 5` needs no `--`, and a script that has a `--device` of its own gets it
by `-- --device 2`. Typer's own parser cannot do this: told to ignore unknown options, it takes `-vo` apart, keeps `-o`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from typer.core import TyperCommand

__all__ = ["NOTES_KEY", "WORDS_KEY", "ScriptCommand", "Split", "split_arguments"]

NOTES_KEY: Final = "cordee.notes"
WORDS_KEY: Final = "cordee.words"  # what was typed behind the command's name
_ALIKE: Final = 0.8


@dataclass(frozen=True)
class Split:
    """A command line, sorted: Cordee's options, the script and its arguments, and what looks like a slip."""

    options: tuple[str, ...]
    script: tuple[str, ...]
    notes: tuple[str, ...] = ()
    incomplete: bool = False
    """The last word is an option whose value is missing."""


def split_arguments(arguments: Sequence[str], takes_value: Mapping[str, bool]) -> Split:
    """Apply the rule. `takes_value` says of each of Cordee's options whether a value follows it."""
    options: list[str] = []
    script: list[str] = []
    notes: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            script += rest
            break
        name, equals, _ = word.partition("=")
        if name in takes_value and (not equals or word.startswith("--")):
            options.append(word)
            if takes_value[name] and not equals:
                if not rest:
                    return Split(tuple(options), tuple(script), tuple(notes), incomplete=True)
                options.append(rest.pop(0))
        elif not script and word.startswith("-") and word != "-":
            options.append(word)  # unknown, or a short option with its value attached: for the parser to judge
        else:
            if script and name.startswith("--"):
                alike = difflib.get_close_matches(name, list(takes_value), 1, _ALIKE)
                notes += [f"{name} is no option of cordee's and goes to the script; did you mean {it}?" for it in alike]
            script.append(word)
    return Split(tuple(options), tuple(script), tuple(notes))


class ScriptCommand(TyperCommand):
    """A Typer command whose first positional argument is a script, by the rule above."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Sort the words first, then let the parser check Cordee's part."""
        takes_value = {
            name: not getattr(parameter, "is_flag", False)
            for parameter in self.get_params(ctx)
            if parameter.param_type_name == "option"
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        split = split_arguments(args, takes_value)
        ctx.meta[NOTES_KEY] = split.notes
        ctx.meta[WORDS_KEY] = tuple(args)
        words = [*split.options] if split.incomplete or not split.script else [*split.options, "--", *split.script]
        return super().parse_args(ctx, words)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line."""
        del ctx
        return ["[OPTIONS]", "SCRIPT", "[SCRIPT ARGS]..."]

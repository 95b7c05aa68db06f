"""The page of all commands, made from the command line itself, so that it cannot go stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def program() -> Any:
    """The root of the command line: a group with `commands`, each with `params` and `help`."""
    import typer

    from vitadapt.cli.main import app

    return typer.main.get_command(app)


def commands(group: Any, name: str = "vitadapt") -> Iterator[tuple[str, Any]]:
    """(what is typed, the command) for every command that does something, in the order of `--help`."""
    for word, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def page() -> str:
    """Markdown: a section for each command with its arguments, options and defaults."""
    return "\n\n".join(_section(name, command) for name, command in commands(program()))


def _section(name: str, command: Any) -> str:
    shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option"]
    usage = " ".join([name, *map(_placeholder, arguments), *(["[OPTIONS]"] if options else [])])
    example, _, text = (command.help or "").partition("\n\n")
    parts = [f"## {name}", _plain(text), f"```text\n{usage}\n```"]
    parts += [f"```bash\n{example.removeprefix('Example: ')}\n```"]
    rows = [_row(f"`{_placeholder(param)}`", param) for param in arguments]
    rows += [_row(" ".join(f"`{flag}`" for flag in param.opts), param) for param in options]
    return "\n\n".join([*parts, *rows])


def _placeholder(param: Any) -> str:
    name = param.name.upper() + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _row(name: str, param: Any) -> str:
    """One entry of a definition list."""
    meaning = " ".join(filter(None, (_plain(param.help), _default(param))))
    return f"{name}\n:   {meaning or '&nbsp;'}"


def _default(param: Any) -> str:
    """What happens when the option is not given; empty where nothing does, or where its help says it."""
    if param.required:
        return "Required."
    value = param.default
    if value is None or isinstance(value, bool) or callable(value) or value in ("", [], ()):
        return ""
    return f"Default: `{value}`."


def _plain(text: str | None) -> str:
    """Help as Markdown in which stars, brackets and the like mean themselves."""
    words = " ".join((text or "").split())
    for letter in "\\*_[]<":
        words = words.replace(letter, f"\\{letter}")
    return words

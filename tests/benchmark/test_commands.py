"""The command line of a configuration makes that configuration again."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import typer

from vitadapt.benchmark.commands import commands_of, run_command, run_commands
from vitadapt.benchmark.config import RunConfig
from vitadapt.cli import benchmark
from vitadapt.cli.main import app
from vitadapt.methods.spec import parse_method
from vitadapt.nn.head_spec import parse_head
from vitadapt.text import Prompts
from vitadapt.text.knowledge import Knowledge
from vitadapt.training.recipe import Recipe, recipe_for


@pytest.fixture
def read(monkeypatch):
    """command -> the configurations that `vitadapt run` would run."""

    def parse(command):
        seen = []
        monkeypatch.setattr(benchmark, "_execute", lambda cells, *rest, **more: seen.extend(cells))
        program, *arguments = shlex.split(command)
        assert program == "vitadapt"
        typer.main.get_command(app).main(arguments, standalone_mode=False)
        return seen

    return parse


def config(method="lora", seed=0, **fields):
    return RunConfig("random:tiny", parse_method(method), "digits", seed=seed, **fields).resolved()


CASES = {
    "plain": config(),
    "fields": config("kadaptation:n=4,bias=false,targets=q+k+v"),
    "all shots": config(shots=None),
    "size and precision": config(image_size=32, precision="bf16"),
    "recipe": config(recipe=Recipe(lr=0.0123, epochs=7, schedule="constant")),
    "one field": config(recipe=recipe_for("fixed", parse_method("lora"))),
    "head": config(head=parse_head("text:scale=pretrained,learn_scale=true")),
    "templates": config(head=parse_head("text"), prompts=Prompts(templates=("a photo of a {}.", "it's a {}"))),
    "protocol": config(protocol="cv"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_is_read_as_the_configuration_that_it_was_written_from(case, read):
    (again,) = read(run_command([CASES[case]]))
    assert again == CASES[case] and again.digest() == CASES[case].digest()


def test_a_dataset_with_blanks_and_quotes_comes_through_the_shell(read):
    odd = RunConfig("random:tiny", parse_method("lora"), "digits; rm -rf 'x' $HOME").resolved()
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {run_command([odd])}"], capture_output=True, text=True)
    assert odd.dataset in printed.stdout.split("\0")


def test_class_names_and_knowledge_are_written_out(tmp_path):
    named = config(
        head=parse_head("text"), prompts=Prompts(("it's a cat", "dog"), knowledge=Knowledge("k.json", content="ab"))
    )
    command = run_command([named])
    assert "--knowledge path=k.json,content=ab" in command
    start = command.index("<(")
    names = subprocess.run(["bash", "-c", f"cat {command[start : command.index(')', start) + 1]}"], capture_output=True)
    assert names.stdout.decode().splitlines() == ["it's a cat", "dog"]


def test_commands_are_few_and_run_just_what_was_run(read):
    cells = [config(method, seed) for seed in (0, 1) for method in ("lora", "bitfit")]
    cells += [config("layernorm", 0), config("lora", 0, shots=2), config("lora", 0, recipe=Recipe(lr=0.5))]
    commands = run_commands(cells)
    again = [cell for command in commands for cell in read(command)]
    assert sorted(cell.digest() for cell in again) == sorted(cell.digest() for cell in cells)
    assert len(commands) == 4


def test_what_cannot_be_named_is_told_and_the_rest_is_kept():
    plain = config().to_dict()
    lost = {**plain, "method": {"name": "of-somebody-else"}}
    commands = commands_of([lost, plain])
    assert [line.startswith("# ") for line in commands] == [False, True] and "of-somebody-else" in commands[1]

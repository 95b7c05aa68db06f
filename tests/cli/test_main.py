"""The command line as people meet it: real processes, exit statuses, one clear line for every mistake."""

import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from fanout_cases import make_photos
from result_cases import record, saved

from docsite.commands import commands, program
from vitadapt.benchmark.results.store import Store
from vitadapt.methods import METHODS


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("cli") / "photos")


def command(*arguments):
    return [sys.executable, "-m", "vitadapt.cli.main", *map(str, arguments)]


def recipe_file(path, photos, methods=("linear-probe", "lora"), epochs=1, seeds=(0,)):
    path.write_text(
        f'[bench]\nbackbone = "random:tiny"\ndataset = "{photos}"\nmethod = {json.dumps(methods)}\n'
        f"shots = 3\nseed = {list(seeds)}\n[recipe]\nepochs = {epochs}\nbatch_size = 2\n"
    )
    return path


def test_a_bench_prints_its_table_and_the_second_time_finds_everything_done(tmp_path, photos, vitadapt):
    recipe, out = recipe_file(tmp_path / "b.toml", photos), tmp_path / "runs"
    options = ("bench", recipe, "--out", out, "--cache", tmp_path / "cache", "--plot")
    first = vitadapt(*options)
    assert first.returncode == 0, first.stderr
    assert "linear-probe" in first.stdout and "PE" in first.stdout
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    stamps = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    second = vitadapt(*options)
    assert second.returncode == 0 and "2 of 2 cells are recorded already" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == stamps
    assert [line for line in first.stdout.splitlines() if "lora" in line] == [
        line for line in second.stdout.splitlines() if "lora" in line
    ]


def test_run_results_and_plot_work_together(tmp_path, photos, vitadapt):
    out = tmp_path / "runs"
    options = ("--dataset", photos, "--backbone", "random:tiny", "--shots", 3, "--recipe", "epochs=1", "--no-cache")
    done = vitadapt("run", *options, "--method", "bitfit", "--seed", 0, "--seed", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    table = vitadapt("results", out, "--format", "md")
    assert table.returncode == 0 and re.search(r"bitfit.*±", table.stdout)
    assert json.loads(vitadapt("results", out, "--format", "json").stdout)[0]["method"] == "bitfit"
    drawn = vitadapt("plot", out, "--out", tmp_path / "p.svg")
    assert drawn.returncode == 0 and (tmp_path / "p.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--dataset", "PHOTOS", "--method", "lorra", "--backbone", "random:tiny"], 2, "did you mean lora"),
        (["run", "--dataset", "PHOTOS", "--method", "lora:rnk=2", "--backbone", "random:tiny"], 2, "did you mean rank"),
        (["run", "--dataset", "PHOTOS", "--method", "lora", "--backbone", "random:tinny"], 2, "tiny"),
        (
            ["run", "--dataset", "PHOTOS", "--method", "lora", "--backbone", "dinov2-s14-ofline"],
            2,
            "dinov2-s14-offline",
        ),
        (["run", "--dataset", "mnist-5", "--method", "lora"], 2, "did you mean mnist-5k"),
        (["run", "--dataset", "/no/such", "--method", "lora", "--backbone", "random:tiny"], 1, "/no/such"),
        (
            ["run", "--dataset", "PHOTOS", "--method", "lora", "--backbone", "random:tiny", "--shots", "0"],
            2,
            "at least 1",
        ),
        (
            ["run", "--dataset", "PHOTOS", "--method", "lora", "--backbone", "random:tiny", "--shots", "x"],
            2,
            "whole number",
        ),
        (["run", "--dataset", "PHOTOS", "--method", "lora", "--backbone", "random:tiny", "--shots", "50"], 1, "dark"),
        (["run", "--dataset", "PHOTOS", "--method", "lora", "--recipe", "lrr=1"], 2, "did you mean lr"),
        (["run", "--dataset", "PHOTOS", "--method", "lora", "--protocol", "fxed"], 2, "fixed"),
        (["run", "--dataset", "PHOTOS", "--method", "lora", "--device", "cuda:7"], 2, "cuda:7"),
        (["run", "--dataset", "PHOTOS", "--method", "kadaptation:n=5", "--backbone", "random:tiny"], 1, "divide"),
        (["run", "--method", "lora"], 2, "dataset"),
        (["bench", "absent.toml"], 2, "cannot be read"),
        (["results", "absent"], 1, "no results there"),
        (["list", "metods"], 2, "methods"),
        (["count", "--method", "lorra"], 2, "lora"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_mistake_gets_one_clear_line(tmp_path, photos, arguments, status, message, vitadapt):
    arguments = [str(photos) if part == "PHOTOS" else part for part in arguments]
    if arguments[0] == "run":
        arguments += ["--out", str(tmp_path / "runs"), "--no-cache"]
    done = vitadapt(*arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["methods", "backbones", "datasets", "protocols"])
def test_everything_that_can_be_named_is_listed(what, vitadapt):
    rows = json.loads(vitadapt("list", what, "--json").stdout)
    assert rows and all(row["name"] for row in rows)
    shown = vitadapt("list", what).stdout
    assert all(row["name"] in shown for row in rows)
    if what == "methods":
        assert [row["name"] for row in rows] == list(METHODS)


def test_counts_stand_beside_the_published_figures(vitadapt):
    names = ("kadaptation", "lora", "adapter", "compacter", "fine-tune", "linear-probe")  # all: tests/methods
    names += ("kadaptation-released", "adapter-released")
    chosen = [word for name in names for word in ("--method", name)]
    rows = {row["method"]: row for row in json.loads(vitadapt("count", "--json", *chosen).stdout)}
    assert tuple(rows) == names
    assert rows["kadaptation"]["trained"] == 50_176 and rows["compacter"]["trained"] == 48_448
    for name in ("kadaptation", "lora", "adapter", "fine-tune", "linear-probe"):
        assert int(rows[name]["trained"] + rows[name]["head"]) == rows[name]["published"]
    assert "79,699" in vitadapt("count", "--method", "kadaptation").stdout
    efficiency = {"kadaptation-released": 68.9, "fine-tune": 49.8, "linear-probe": 66.3, "adapter-released": 64.7}
    assert {name: round(rows[name]["pe"], 1) for name in efficiency} == efficiency
    other = ["--method", "kadaptation", "--method", "fine-tune"]
    small, large = json.loads(vitadapt("count", "--json", "--backbone", "random:clip-vit-b16", *other).stdout)
    assert small["published"] == rows["kadaptation"]["published"] and large["trained"] == 86_192_640
    assert large["published"] is None and small["score"] is None


def test_the_audit_of_a_backbone_names_every_tensor(vitadapt):
    done = vitadapt("count", "--backbone", "random:tiny", "--method", "kadaptation", "--method", "lora", "--audit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shared.rule_q.s" in done.stdout and "shared" in done.stdout and "live" in done.stdout


def test_help_does_not_import_torch(vitadapt):
    code = "import sys, vitadapt.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    shown = vitadapt("--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in ("run", "bench", "results", "plot", "count"))


def test_the_help_groups_its_commands_and_every_command_opens_with_an_example(vitadapt):
    shown = vitadapt("--help").stdout
    places = [shown.index(panel) for panel in ("Your images", "Benchmark", "Leaderboard", "Look up")]
    assert places == sorted(places)
    for name, command in commands(program()):
        assert command.help.startswith(f"Example: {name}"), name
        assert shlex.split(command.help.partition("\n")[0])[1] == "vitadapt"


def test_the_version_is_told(vitadapt):
    done = vitadapt("--version")
    assert (done.returncode, done.stdout) == (0, f"vitadapt {importlib.metadata.version('vitadapt')}\n")


NO_JSON = {"vitadapt serve", "vitadapt data subset"}  # one prints nothing, one prints JSON alone


def test_every_command_with_results_prints_json():
    for name, command in commands(program()):
        flags = {flag for param in command.params for flag in param.opts}
        assert ("--json" in flags) is (name not in NO_JSON), name


def test_run_results_report_and_fit_print_json_alone(tmp_path, photos, vitadapt):
    out, tiny = tmp_path / "runs", ("--backbone", "random:tiny", "--recipe", "epochs=1", "--no-cache", "--json")
    (row,) = json.loads(vitadapt("run", "-d", photos, "-m", "bitfit", "--shots", 3, "-o", out, *tiny).stdout)
    assert row["method"] == "bitfit" and row["backbone"] == "random:tiny"
    assert json.loads(vitadapt("results", out, "--json").stdout) == [row]
    assert json.loads(vitadapt("report", out, "--json").stdout) == {"path": str(out / "report.html")}
    fitted = json.loads(
        vitadapt("fit", photos, "-m", "linear-probe", "--out", tmp_path / "m", "--folds", 2, *tiny).stdout
    )
    assert fitted["model"] == str(tmp_path / "m") and fitted["test"]["count"] > 0


def test_scores_of_random_weights_are_said_to_mean_nothing(tmp_path, vitadapt):
    store = Store(tmp_path / "runs")
    for method in ("lora", "bitfit"):
        saved(store, record(method))
    for words in (["results"], ["results", "--reliability"], ["results", "--format", "md"], ["compare"]):
        assert "random:tiny: random weights, so that these scores mean nothing" in vitadapt(*words, store.root).stdout


PLUGIN = """
from vitadapt.methods import METHODS, BitFit

@METHODS.register("{name}")
class Mine(BitFit):
    \"\"\"One of my own.\"\"\"
"""


def test_a_plugin_may_be_named_before_and_after_the_command(tmp_path):
    for name in ("mine", "yours"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name))
    first, second = tmp_path / "mine.py", tmp_path / "yours.py"
    line = command("--plugin", first, "list", "methods", "--json", f"--plugin={second}")
    rows = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    assert {"mine", "yours"} <= {row["name"] for row in rows}
    line = command("list", "methods", "--plugin", tmp_path / "none.py")
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "none.py" in done.stderr and done.stderr.count("\n") == 1


def test_no_control_character_of_a_name_reaches_the_terminal(tmp_path, vitadapt):
    store = Store(tmp_path / "runs\x1b]0;title\x07")
    saved(store, record(dataset="cats\x1b[2J\r\ndogs"))
    store.path("records", record(seed=9).digest).write_text("{")
    for words in (["results"], ["results", "--format", "md"], ["results", "--format", "csv"], ["report"]):
        done = vitadapt(*words, store.root)
        assert done.returncode == 0, done.stderr
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


def started(process, out, more_than, seconds=300):
    """Wait until there are more records; so long only where something is broken, or the machine very busy."""
    limit = time.monotonic() + seconds
    while len(list((out / "records").glob("*.json"))) <= more_than:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)


def test_a_bench_that_is_interrupted_goes_on_where_it_was(tmp_path, photos, vitadapt):
    """Killed ones: tests/faults/test_kill.py."""
    recipe = recipe_file(tmp_path / "b.toml", photos, ["linear-probe", "lora"], 12, [0, 1])
    out, cache = tmp_path / "runs", tmp_path / "cache"
    options = ("bench", recipe, "--out", out, "--cache", cache)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(*options), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one_thread
    )
    started(process, out, more_than=0)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=300)
    kept = {path: path.read_bytes() for path in (out / "records").glob("*.json")}
    assert 0 < len(kept) < 4
    assert process.returncode == 130 and "goes on from there" in output and "Traceback" not in output
    assert vitadapt(*options).returncode == 0
    assert len(list((out / "records").glob("*.json"))) == 4
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_a_failed_cell_gives_status_1_and_the_others_are_kept(tmp_path, photos, vitadapt):
    recipe = recipe_file(tmp_path / "b.toml", photos, ["zero-shot", "bitfit"])
    done = vitadapt("bench", recipe, "--out", tmp_path / "runs", "--no-cache")
    assert done.returncode == 1
    assert "text tower" in done.stderr and "bitfit" in done.stdout
    assert len(list((tmp_path / "runs" / "records").iterdir())) == 1
    assert "Traceback" in next((tmp_path / "runs" / "failures").iterdir()).read_text()


def test_an_unwritable_place_for_results_is_named(photos, vitadapt):
    options = ("--dataset", photos, "--method", "bitfit", "--backbone", "random:tiny", "--shots", 3, "--no-cache")
    done = vitadapt("run", *options, "--out", "/dev/null/runs")
    assert done.returncode == 1 and "/dev/null/runs" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(given, expected, tmp_path):
    """OpenMP reads the variable when torch is loaded, so that a plugin must find it set."""
    plugin = tmp_path / "look.py"
    look = "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules, file=sys.stderr, flush=True)"
    plugin.write_text(f"import os, sys\n{look}\nos._exit(0)\n")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    line = [sys.executable, "-m", "vitadapt", "--plugin", str(plugin), "list", "protocols"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.split()[0] == expected

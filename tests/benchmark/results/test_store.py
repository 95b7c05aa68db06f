"""Records are whole or absent, tables add up, plots are drawn."""

import dataclasses
import json
import statistics

import pytest
from result_cases import record, saved

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.results.store import Store
from vitadapt.metrics.scores import performance_efficiency
from vitadapt.report.cost_figures import pareto
from vitadapt.report.plot import ENDINGS, plot
from vitadapt.report.table import columns_of, remarks_of, render
from vitadapt.utils.errors import ConfigError, StorageError
from vitadapt.utils.files import checksum


def test_a_record_survives_its_file(tmp_path):
    store = Store(tmp_path)
    made = saved(store, record())
    assert store.get(made.digest) == made
    assert store.records() == ([made], [])
    probabilities, labels = store.predictions(made)
    assert probabilities.shape == (4, 2) and labels.tolist() == [0] * 4


def test_a_record_without_a_split_rule_is_read(tmp_path):
    plain = {**dataclasses.asdict(record()), "files": {}}
    del plain["split"]
    path = tmp_path / "records" / f"{record().digest}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**plain, "checksum": checksum(plain)}))
    assert Store(tmp_path).read(path) == record()


def test_recipes_and_prompts_that_differ_are_rows_of_their_own_and_say_how():
    def changed(key, value):
        base = record()
        return dataclasses.replace(base, config={**base.config, key: value}, digest=str(value)[:16])

    recipe = {**record().config["recipe"], "lr": 0.5}
    rows = rows_of([record(), changed("recipe", recipe), changed("prompts", {"templates": ["a {}"]})])
    names = [row.method for row in rows]
    assert len(set(names)) == 3 and all(len(row.cells["digits"].scores) == 1 for row in rows)
    assert sum("lr=0.5" in name for name in names) == 1
    assert {row.method for row in rows_of([record(), record("bitfit")])} == {"bitfit", "lora"}


def test_rows_are_in_the_order_of_settings_and_of_what_is_trained_whenever_they_were_run():
    def made(method, shots, trained, score=80.0):
        return record(method, trained=trained, score=score, axes={"shots": shots})

    records = [made("fine-tune", 20, 9000), made("lora", None, 10), made("bitfit", 5, 700), made("lora", 20, 10)]
    records.append(made("adapter", 20, 5, score=None))  # tells no number of parameters
    order = [(dict(row.setting)["shots"], row.method) for row in rows_of(records)]
    assert order == [(5, "bitfit"), (20, "lora"), (20, "fine-tune"), (20, "adapter"), (None, "lora")]


def test_a_dataset_that_is_a_path_is_headed_by_its_last_part():
    head, _ = columns_of(rows_of([record(dataset="/a/x/photos"), record(dataset="/a/y/birds")]))
    assert {"photos", "birds"} <= set(head)
    head, _ = columns_of(rows_of([record(dataset="/a/x/photos"), record(dataset="/a/y/photos")]))
    assert {"x/photos", "y/photos"} <= set(head)


@pytest.mark.parametrize("form", ["md", "latex", "json"])
def test_another_split_than_the_benchmarks_is_told(form):
    usual = [record(split="elevater"), record(dataset="mnist", split="given"), record(dataset="dtd")]
    foreign = record(dataset="caltech-101", split="native")
    assert "native" not in render(usual, form)
    text = render([*usual, foreign], form)
    if form == "json":
        (row,) = json.loads(text)
        assert {name: cell["split"] for name, cell in row["datasets"].items()} == {
            "digits": "elevater",
            "mnist": "given",
            "dtd": "",
            "caltech-101": "native",
        }
    else:
        assert "do not compare: caltech-101" in text


@pytest.mark.parametrize("position", [0, 40, 200, -3])
def test_a_record_with_one_flipped_bit_counts_as_absent_and_is_named(tmp_path, position):
    store = Store(tmp_path)
    made = saved(store, record())
    path = store.path("records", made.digest)
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))
    assert store.get(made.digest) is None
    whole, damaged = store.records()
    assert whole == [] and str(path) in damaged[0]


def test_damaged_predictions_are_refused(tmp_path):
    store = Store(tmp_path)
    made = saved(store, record())
    path = store.path("predictions", made.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StorageError, match="damaged predictions"):
        store.predictions(made)


def test_a_full_disk_leaves_what_was_finished(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = saved(store, record())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        saved(store, record(seed=1))
    assert store.records() == ([first], [])
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_a_newer_format_is_not_misread(tmp_path):
    store = Store(tmp_path)
    made = saved(store, record(schema=99))
    assert store.get(made.digest) is None


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(StorageError, match="no results there"):
        Store(tmp_path / "nothing").records()


def test_success_removes_the_trace_of_an_earlier_failure(tmp_path):
    store, made = Store(tmp_path), record()
    path = store.fail(made.digest, "Traceback ...")
    assert path.read_text() == "Traceback ..."
    saved(store, made)
    assert not path.exists()


def drawn(method, train, seed=0, **axes):
    return record(method, seed=seed, axes=axes, images={"train": train, "test": "y", "test_count": 1})


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ([drawn("lora", ["x", "z"]), drawn("adapter", ["x", "z"])], 0),
        ([drawn("lora", ["x", "z"]), drawn("adapter", ["x", "w"])], 1),
        ([drawn("lora", ["x", "z"]), drawn("adapter", ["x", "w"], shots=7)], 0),
        ([drawn("lora", ["x", "z"]), drawn("adapter", ["x", "w"], seed=1)], 0),
        ([drawn("lora", ["x", "z"]), drawn("zero-shot", [])], 0),
    ],
)
def test_methods_that_were_given_other_images_are_told_apart(made, changed):
    found = [remark for remark in remarks_of(rows_of(made)) if "draws of training images differ" in remark]
    assert len(found) == changed
    assert all(remark.startswith("digits: 1 of 1 draws") for remark in found)


def test_cells_hold_mean_and_deviation_over_seeds():
    scores = [70.0, 80.0, 84.0]
    (row,) = rows_of([record(seed=seed, score=score) for seed, score in enumerate(scores)])
    cell = row.cells["digits"]
    assert cell.mean == pytest.approx(statistics.fmean(scores))
    assert cell.sd == pytest.approx(statistics.stdev(scores))
    assert cell.text() == "78.0 ± 7.2"
    assert row.pe == pytest.approx(performance_efficiency(78.0, 1000))
    assert row.ppt == pytest.approx(performance_efficiency(78.0, 1000, 1e7))
    assert remarks_of([row])[:1] == ["PE = score exp(-log10(trained / 1e+08 + 1)), PPT with 1e+07"]


def test_there_is_no_average_while_a_dataset_is_missing():
    rows = rows_of([record(), record("bitfit"), record("bitfit", dataset="mnist-5k", score=90.0)])
    averages = {row.method: row.average for row in rows}
    assert averages == {"lora": None, "bitfit": 85.0}
    head, body = columns_of(rows)
    assert head == ["method", "trained", "digits", "mnist-5k", "average", "PE", "PPT", "seconds"]
    assert [line[3] for line in body if line[0] == "lora"] == ["-"]


def test_a_diverged_run_is_shown_and_not_averaged():
    (row,) = rows_of([record(seed=0), record(seed=1, score=None)])
    assert row.cells["digits"].text() == "80.0 (1 diverged)"


def test_what_varies_becomes_a_column():
    other = record()
    other = dataclasses.replace(other, config={**other.config, "shots": 20}, digest="f" * 16)
    head, body = columns_of(rows_of([record(), other]))
    assert head[0] == "shots" and sorted(line[0] for line in body) == ["20", "5"]


@pytest.mark.parametrize("form", ["md", "csv", "latex", "json"])
def test_every_format_holds_every_method_and_score(form):
    text = render([record(), record("bitfit", score=91.25)], form)
    assert "lora" in text and "bitfit" in text and ("91.2" in text)
    if form == "json":
        assert json.loads(text)[0]["datasets"]["digits"]["seeds"] == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_plot_is_a_file_of_its_kind(tmp_path, ending):
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    records = [record(), record("bitfit", score=91.0, trained=50_000), record("fine-tune", score=60.0, trained=10**8)]
    path = plot(records, tmp_path / "new" / f"p{ending}", "accuracy", None)
    assert path.read_bytes().startswith(start[ending])


def test_a_plot_of_another_kind_or_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.png"):
        plot([record()], tmp_path / "p.bmp", "accuracy", None)
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot([record(score=None)], tmp_path / "p.png", "accuracy", None)


def test_the_pareto_front_holds_what_nothing_beats():
    points = [(10.0, 50.0), (20.0, 40.0), (30.0, 70.0), (30.0, 60.0), (5.0, 10.0)]
    assert pareto(points) == [4, 0, 2]


def test_a_record_that_is_nested_without_end_is_damaged(tmp_path):
    store = Store(tmp_path)
    made = record()
    saved(store, made)
    path = store.path("records", made.digest)
    path.write_text("[" * 100_000)
    with pytest.raises(StorageError, match="nested too deeply"):
        store.read(path)
    assert store.get(made.digest) is None

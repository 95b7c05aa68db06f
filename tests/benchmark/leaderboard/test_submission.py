"""Submissions: what is written is what the published tools take, and every way to be wrong is named before the server
sees it."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from leaderboard_cases import FIELDS, IMAGES, fill, labels_of, probabilities, record, small_suite

from vitadapt.benchmark.leaderboard import predictions_json
from vitadapt.benchmark.leaderboard.check import check
from vitadapt.benchmark.leaderboard.collect import Collection, candidates, choose
from vitadapt.benchmark.leaderboard.predictions_json import MEMBER, read_objects
from vitadapt.benchmark.leaderboard.score import score, total
from vitadapt.benchmark.leaderboard.submission import (
    SubmissionEntry,
    join,
    read_entries,
    read_folder,
    write_seed,
    write_zip,
)
from vitadapt.benchmark.leaderboard.suite import Truth, mean_classes, required, suite, truth_of
from vitadapt.benchmark.results.store import Store
from vitadapt.data.datasets import catalog
from vitadapt.metrics.scores import RELEASED_METRICS, performance_efficiency
from vitadapt.utils.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def small():
    with small_suite():
        yield


def entry(name: str = "cifar-10", seeds=(0, 1, 2), **changes) -> SubmissionEntry:
    fields = {"model_name": "m", "dataset_name": name, **FIELDS, "n_shot": 5, "rnd_seeds": list(seeds)}
    predictions = tuple(probabilities(suite()[name], seed) for seed in seeds)
    return SubmissionEntry({**fields, **changes}, predictions)


def full_suite() -> list[SubmissionEntry]:
    return [entry(name) for name in required()]


def no_labels(row):
    return None


def chosen_of(store: Store, **wanted):
    return Collection(store, choose(candidates(store.records()[0]), **wanted), no_labels)


def published_combination(folder: Path) -> dict:
    """What the toolkit's own combination of per-seed files does, re-stated from the description of its format."""
    groups = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        plain = json.loads(path.read_text())
        groups[plain["dataset_name"]].append(plain)
    data = []
    for members in groups.values():
        whole = dict(members[0])
        for key in whole.keys() - {"num_trainable_params", "rnd_seeds", "predictions"}:
            assert all(member[key] == whole[key] for member in members), key
        whole["rnd_seeds"] = [seed for member in members for seed in member["rnd_seeds"]]
        whole["predictions"] = [matrix for member in members for matrix in member["predictions"]]
        whole["num_trainable_params"] = sum(m["num_trainable_params"] for m in members) / len(members)
        data.append(whole)
    return {"data": data}


def published_demands(plain: dict) -> None:
    """The demands of the published submission page and validator on one entry."""
    row = next(row for row in catalog().values() if row.leaderboard == plain["dataset_name"])
    assert isinstance(plain["model_name"], str) and plain["n_shot"] in (0, 5, -1)
    assert plain["rnd_seeds"] == ([0, 1, 2] if plain["n_shot"] == 5 else [0])
    array = np.array(plain["predictions"])
    assert array.shape == (len(plain["rnd_seeds"]), row.sizes["test"], len(row.classes))
    assert ((array >= 0) & (array <= 1)).all()
    if not row.multilabel:
        assert all(math.isclose(total, 1, rel_tol=1e-3) for total in array.sum(axis=2).ravel())
    assert (np.round(array, 6) == array).all()


def test_a_full_store_becomes_a_zip_that_meets_every_published_demand(tmp_path):
    store = Store(tmp_path / "runs")
    fill(store, [row.name for name, row in suite().items() if name in required()])
    collection = chosen_of(store)
    assert list(check(collection.entries())) == []
    write_zip(tmp_path / "s.zip", collection.entries())
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.namelist() == [MEMBER]
        plain = json.loads(archive.read(MEMBER))
    assert sorted(each["dataset_name"] for each in plain["data"]) == sorted(required()) and len(required()) == 20
    for each in plain["data"]:
        published_demands(each)
        assert each["num_trainable_params"] == 1001.0 and each["num_params"] == 5000 + round(65 * mean_classes())
    assert list(check(read_entries(tmp_path / "s.zip"))) == []


def test_the_published_combination_of_our_seed_files_is_our_zip(tmp_path):
    store = Store(tmp_path / "runs")
    fill(store, ["cifar-10", "voc-2007", "eurosat"])
    collection = chosen_of(store)
    for each in collection.seed_entries():
        write_seed(tmp_path / "seeds", each)
    assert (tmp_path / "seeds" / "seed2_eurosat_clip.json").read_text().count("\n") == 0
    write_zip(tmp_path / "s.zip", collection.entries())
    ours = json.loads(zipfile.ZipFile(tmp_path / "s.zip").read(MEMBER))
    theirs = published_combination(tmp_path / "seeds")
    by_name = [sorted(plain["data"], key=lambda each: each["dataset_name"]) for plain in (ours, theirs)]
    assert by_name[0] == by_name[1]
    again = {each.dataset: each for each in read_folder(tmp_path / "seeds")}
    assert all(again[each["dataset_name"]].fields == {k: v for k, v in each.items() if k != "predictions"}
               for each in ours["data"])  # fmt: skip


def test_what_is_written_is_read_again_and_the_same_bytes_each_time(tmp_path):
    made = [entry("dtd"), entry("mnist", (0,), n_shot=0, num_trainable_params=0)]
    write_zip(tmp_path / "a.zip", made)
    write_zip(tmp_path / "b.zip", made)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    for before, after in zip(made, read_entries(tmp_path / "a.zip"), strict=True):
        assert before.fields == after.fields and list(after.fields)[-1] == "rnd_seeds"
        for first, second in zip(before.predictions, after.predictions, strict=True):
            assert np.abs(first - second).max() <= 5.1e-7


def test_columns_of_a_record_are_put_in_the_order_of_the_leaderboard(tmp_path):
    row, store = catalog()["eurosat"], Store(tmp_path)
    order = np.random.default_rng(3).permutation(len(row.classes))
    scores = probabilities(row, 1)
    names = [row.classes[c].upper().replace(" ", "_") for c in order]
    store.add(record("eurosat", classes=names), scores[:, order], labels_of(row), None)
    (made,) = chosen_of(store).entries()
    assert np.array_equal(made.predictions[0], scores)


def test_a_record_with_foreign_classes_or_another_split_is_refused(tmp_path):
    row = catalog()["cifar-10"]
    for number, (changes, message) in enumerate(
        [({"classes": [*row.classes[:-1], "lorry"]}, "lorry"), ({"split": "native"}, "native split")]
    ):
        store = Store(tmp_path / str(number))
        store.add(record("cifar-10", **changes), probabilities(row, 1), labels_of(row), None)
        with pytest.raises(DataError, match=message):
            list(chosen_of(store).entries())


def test_an_order_of_images_that_is_not_the_leaderboards_is_refused(tmp_path):
    row, store = catalog()["cifar-10"], Store(tmp_path)
    labels = labels_of(row)
    store.add(record("cifar-10"), probabilities(row, 1), labels, None)
    candidate = choose(candidates(store.records()[0]))
    same = Collection(store, candidate, lambda _: Truth(labels, True, "hub"))
    assert list(same.entries()) and same.unverified == []
    other = Collection(store, candidate, lambda _: Truth(labels[::-1], True, "hub"))
    with pytest.raises(DataError, match="another order than in hub"):
        list(other.entries())
    unknown = Collection(store, candidate, lambda _: Truth(labels[::-1], False, "native"))
    assert list(unknown.entries()) and unknown.unverified == ["cifar-10"]


def test_several_candidates_are_listed_and_can_be_told_apart(tmp_path):
    store = Store(tmp_path)
    fill(store, ["cifar-10"], method="lora")
    fill(store, ["cifar-10"], method="lora", shots=None)
    fill(store, ["cifar-10", "mnist"], method="bitfit")
    found = candidates(store.records()[0])
    assert len(found) == 3 and found[0].setting["method"] == "bitfit"
    with pytest.raises(ConfigError, match=r"3 candidates(.|\n)*lora(.|\n)*lora"):
        choose(found)
    with pytest.raises(ConfigError, match="2 candidates"):
        choose(found, method="lora")
    with pytest.raises(ConfigError, match=r"no candidate is like that(.|\n)*bitfit"):
        choose(found, method="adapter")
    assert choose(found, method="lora", shots="all").setting["shots"] == "all"
    assert all(choose(found, candidate.key) is candidate and candidate.key in str(candidate) for candidate in found)
    with pytest.raises(ConfigError, match="no record has predictions"):
        choose([])


def test_zero_shot_and_full_shot_have_one_seed(tmp_path):
    store = Store(tmp_path)
    fill(store, ["cifar-10"], seeds=(3, 4), method="zero-shot")
    fill(store, ["cifar-10"], seeds=(0, 1), method="bitfit", shots=None)
    (zero,) = chosen_of(store, method="zero-shot").entries()
    assert (zero.fields["n_shot"], zero.seeds, len(zero.predictions)) == (0, [0], 1)
    assert zero.fields["num_params"] == zero.fields["num_backbone_params"] and not zero.fields["num_trainable_params"]
    (full,) = chosen_of(store, method="bitfit").entries()
    assert (full.fields["n_shot"], full.seeds, len(full.predictions)) == (-1, [0], 1)


def spoil(place, value):
    def change(each: SubmissionEntry) -> SubmissionEntry:
        matrix = each.predictions[1].copy()
        matrix[place] = value
        return dataclasses.replace(each, predictions=(each.predictions[0], matrix, each.predictions[2]))

    return change


def fields(**changes):
    return lambda each: SubmissionEntry({**each.fields, **changes}, each.predictions)


def shaped(cut):
    return lambda each: SubmissionEntry(each.fields, tuple(cut(matrix) for matrix in each.predictions))


BROKEN = {
    "not a number": (spoil((2, 1), np.nan), ["seed 1: 1 images have values that are not numbers (image 2 first)"]),
    "infinite": (spoil((2, 1), np.inf), ["seed 1: 1 images have values that are not numbers (image 2 first)"]),
    "negative": (spoil((0, 1), -0.5), ["seed 1: 1 images have values outside 0..1"]),
    "sum": (spoil((3, slice(None)), 0.2), ["seed 1: the probabilities of 1 images do not sum to 1 (image 3: 2.0000)"]),
    "images": (shaped(lambda m: m[:-1]), [f"seed {s}: 7 images, but the test set has 8" for s in range(3)]),
    "classes": (
        shaped(lambda m: np.hstack([m, 0 * m[:, :1]])),
        [f"seed {s}: 11 classes, expected 10" for s in range(3)],
    ),
    "seed missing": (
        lambda e: SubmissionEntry({**e.fields, "rnd_seeds": [0, 2]}, e.predictions[:2]),
        ["rnd_seeds are [0, 2], expected [0, 1, 2]"],
    ),
    "seeds unsorted": (fields(rnd_seeds=[1, 0, 2]), ["rnd_seeds are [1, 0, 2], expected [0, 1, 2]"]),
    "seed without predictions": (
        lambda e: SubmissionEntry(e.fields, e.predictions[:2]),
        ["there are predictions of 2 seeds, but rnd_seeds are [0, 1, 2]"],
    ),
    "twice the same": (
        lambda e: SubmissionEntry(e.fields, e.predictions[:1] * 3),
        ["two seeds have the same predictions"],
    ),
    "no predictions": (lambda e: SubmissionEntry(e.fields, ()), ["predictions are missing"]),
    "shots": (fields(n_shot=2), ["n_shot is 2; the leaderboard takes"]),
    "zero-shot": (
        lambda e: SubmissionEntry({**e.fields, "n_shot": 0, "rnd_seeds": [0]}, e.predictions[:1]),
        ["num_trainable_params is 100, but zero-shot trains none"],
    ),
    "no count": (lambda e: SubmissionEntry({k: v for k, v in e.fields.items() if k != "num_params"}, e.predictions),
                 ["num_params is missing"]),
    "count": (fields(num_params="many"), ["num_params is 'many', not a number of parameters"]),
    "counts": (fields(num_backbone_params=10**6), ["num_visual_params 800 <= num_backbone_params 1,000,000"]),
    "name": (fields(model_name=3), ["model_name is 3, not a text"]),
    "data set": (fields(dataset_name="cifar10"), ["unknown data set 'cifar10'; did you mean cifar-10"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_every_fault_of_an_entry_is_named_in_its_line(tmp_path, case):
    breaks, message = BROKEN[case]
    write_zip(tmp_path / "s.zip", [breaks(entry()), *(entry(name) for name in required() if name != "cifar-10")])
    problems = [problem for problem in check(read_entries(tmp_path / "s.zip")) if not problem.absent]
    lines = [str(problem) for problem in problems if problem.dataset != "" or "differs" not in problem.text]
    assert len(lines) == len(message), lines
    for line, expected in zip(lines, message, strict=True):
        assert expected in line and "\n" not in line
        assert case == "data set" or line.startswith("cifar-10: ")


def test_a_whole_submission_has_no_problem_and_what_is_missing_or_double_is_named():
    entries = full_suite()
    assert list(check(entries)) == []
    lines = [str(problem) for problem in check([*entries[1:], entries[5]])]
    assert lines == [f"{entries[5].dataset}: given 2 times",
                     f"{entries[0].dataset}: missing; there is no average without all 20"]  # fmt: skip
    entries[3] = fields(model_name="other")(entries[3])
    assert [str(problem) for problem in check(entries)] == ["model_name differs between the data sets: m, other"]


def ragged(plain):
    plain["predictions"][1][4].append(0.1)


def flat(plain):
    plain["predictions"] = plain["predictions"][0]


def words(plain):
    plain["predictions"][0][0][0] = "0.5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ragged, "seed number 2: image 4 has 11 values, the others 10"),
        (flat, "not of shape (seeds, images, classes)"),
        (words, "something else than numbers"),
    ],
)
def test_shapes_that_are_none_are_described(tmp_path, change, message):
    write_zip(tmp_path / "s.zip", [entry()])
    plain = json.loads(zipfile.ZipFile(tmp_path / "s.zip").read(MEMBER))
    change(plain["data"][0])
    (tmp_path / "s.json").write_text(json.dumps(plain, indent=2))  # other spacing, and no zip
    assert any(message in str(problem) for problem in check(read_entries(tmp_path / "s.json")))


def test_scores_are_the_leaderboards_metrics_and_the_average_wants_all_of_them():
    entries, truths = full_suite(), lambda row: Truth(labels_of(row), True, "hub")
    scores = list(score(entries, truths))
    for each, made in zip(scores, entries, strict=True):
        row = suite()[made.dataset]
        expected = [100 * RELEASED_METRICS[row.metric](labels_of(row), m.astype(float)) for m in made.predictions]
        assert each.scores == pytest.approx(expected) and each.problem == ""
    whole = total(scores)
    assert whole.complete and whole.average == pytest.approx(np.mean([np.mean(each.scores) for each in scores]))
    assert whole.pe == pytest.approx(performance_efficiency(whole.average, 100))
    missing = list(score(entries, lambda row: None if row.name == "dtd" else truths(row)))
    part = total(missing)
    assert not part.complete and part.count == 19
    (named,) = [each for each in missing if each.problem]
    assert named.dataset == "dtd" and "--data-root" in named.problem
    assert total([]).average is None


def test_labels_come_from_the_users_copy_and_its_order_is_told(tmp_path):
    from elevater_cases import make, write_hub, write_numbered

    copy = make("eurosat", per_class=2)
    write_hub(tmp_path / "hub", copy)
    write_numbered(tmp_path / "other", copy)
    row = catalog()["eurosat"]
    hub, other = truth_of(row, tmp_path / "hub"), truth_of(row, tmp_path / "other")
    assert hub.ordered and np.array_equal(hub.labels, copy.labels("test"))
    assert not other.ordered and truth_of(row, tmp_path / "empty") is None


BOMBS = {
    "list": b'{"data": [{"predictions": [[' + b"[]," * 3000 + b"[]]]}]}",
    "numbers": b'{"data": [{"predictions": [[' + b"[0,0,0,0,0,0]," * 1000 + b"[]]]}]}",
    "nesting": b'{"data": [{"predictions": ' + b"[" * 200 + b"]" * 200 + b"}]}",
    "keys": b"{" + b",".join(b'"k%d": 1' % i for i in range(10_000)) + b"}",
    "text": b'{"data": [{"model_name": "' + b"x" * 50_000 + b'"}]}',
    "cut": b'{"data": [{"predictions": [[[0.1, 0.',
    "cut text": b'{"data": [{"model_name": "x',
    "more": b'{"data": []} {"data": []}',
    "nothing": b"",
    "other": b"[1, 2]",
    "colon": b'{"data" [1]}',
    "no object": b'{"data": [1]}',
    "twice": b'{"data": [], "data": []}',
    "no numbers": b'{"data": [{"predictions": [[[true]]]}]}',
    "objects": b'{"data": [{"predictions": [[{}, [0.5]]]}]}',
    "blanks": b" " * 50_000,
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_is_no_submission_is_refused_in_one_line(monkeypatch, tmp_path, case):
    limits = {"_ROWS": 2000, "_NUMBERS": 5000, "_REST": 20_000, "_TOKEN": 1000, "_CHUNK": 64}
    for name, value in limits.items():
        monkeypatch.setattr(predictions_json, name, value)
    path = tmp_path / "file.json"
    path.write_bytes(BOMBS[case])
    with pytest.raises(DataError, match=r"^[^\n]*file\.json [^\n]*$"):
        list(read_objects(path))


def test_the_size_of_the_pieces_does_not_matter(monkeypatch, tmp_path):
    plain = {"data": [{"a": 'x\\"]', "n": -1.5e-3, "s": [0, 1], "p": [[[0.25, 1], [3e-06, 0]]]}], "z": None}
    path = tmp_path / "file.json"
    for indent in (None, 1):
        path.write_text(json.dumps(plain, indent=indent))
        for size in (1, 2, 3, 7, 1 << 20):
            monkeypatch.setattr(predictions_json, "_CHUNK", size)
            first, second = read_objects(path)
            assert second == {"z": None} and [*first] == ["a", "n", "s", "p"]
            assert [first["a"], first["n"], first["s"]] == ['x\\"]', -1.5e-3, [0, 1]]
            assert [row.tolist() for row in first["p"][0]] == [[0.25, 1], [pytest.approx(3e-06), 0]]


def test_what_a_file_says_before_its_predictions_is_read_alone(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"model_name": "a", "rnd_seeds": [1], "predictions": [[[0.5')
    assert predictions_json.read_head(path) == {"model_name": "a", "rnd_seeds": [1]}
    path.write_text('{"predictions": [], "model_name": "a"}')
    assert predictions_json.read_head(path) == {}
    path.write_text('{"model_name": "a"}')
    assert predictions_json.read_head(path) == {"model_name": "a"}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_that_is_not_to_be_trusted_is_refused(tmp_path, monkeypatch):
    good = b'{"data": []}'
    for number, members in enumerate([{}, {"../x.json": good}, {MEMBER: good, "b": b""}, {"predictions.json": good}]):
        with pytest.raises(DataError, match="alone in it"):
            list(read_entries(zipped(tmp_path / f"{number}.zip", members)))
    monkeypatch.setattr(predictions_json, "PREDICTIONS_FILE", 10_000)
    with pytest.raises(DataError, match="unfolds to"):
        list(read_entries(zipped(tmp_path / "bomb.zip", {MEMBER: b" " * 20_000})))
    (tmp_path / "long.json").write_bytes(b" " * 2_000_000)
    with pytest.raises(DataError, match="unfolds to more"):
        list(read_entries(tmp_path / "long.json"))
    path = zipped(tmp_path / "damaged.zip", {MEMBER: json.dumps(list(range(500))).encode()})
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        list(read_entries(path))
    with pytest.raises(DataError, match="No such file"):
        list(read_entries(tmp_path / "none.zip"))


def test_a_zip_whose_two_names_of_a_member_are_no_texts_of_one_kind_is_refused(tmp_path):
    path = zipped(tmp_path / "s.zip", {MEMBER: b'{"data": []}'})
    data = bytearray(path.read_bytes())
    data[30] = 0x91  # the name before the member, which is no UTF-8 any more ...
    data[data.index(b"PK\x01\x02") + 9] |= 0x08  # ... and the directory says that it is
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"s\.zip is not JSON, damaged or cut off"):
        list(read_entries(path))


def test_seeds_that_do_not_belong_together_are_not_joined(tmp_path):
    with pytest.raises(DataError, match="n_shot differs"):
        join([entry(seeds=(0,)), entry(seeds=(1,), n_shot=20)])
    with pytest.raises(DataError, match="no predictions"):
        list(read_folder(tmp_path))
    (tmp_path / "a.json").write_text(json.dumps({"data": []}))
    with pytest.raises(DataError, match="not the predictions of one data set"):
        list(read_folder(tmp_path))


def test_what_differs_between_seeds_is_told_in_a_line_of_bearable_length():
    with pytest.raises(DataError, match="model_name differs between the seeds") as refused:
        join([entry(seeds=(0,)), entry(seeds=(1,), model_name=[[0.5] * 1000] * 1000)])
    assert len(str(refused.value)) < 500


def test_seeds_are_joined_in_ascending_order_whatever_the_files_are_called(tmp_path):
    for seed, name in ((2, "a"), (0, "b"), (1, "c")):
        write_seed(tmp_path, entry("mnist", (seed,))).rename(tmp_path / f"{name}.json")
    (made,) = read_folder(tmp_path)
    assert made.seeds == [0, 1, 2]
    for seed, matrix in enumerate(made.predictions):
        assert np.abs(matrix - probabilities(suite()["mnist"], seed)).max() < 1e-6
    assert made.predictions[0].shape == (IMAGES, 10)

"""Every data set as its publisher packs it, tiny: the official file formats, and the truth about what was written."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapt.data.datasets import catalog

Truth = dict[str, list[tuple[object, np.ndarray]]]  # split -> (its class, as the publisher calls it; its RGB pixels)
CASES: dict[str, Callable[[Path], Truth]] = {}
SEEDED = ("caltech-101", "eurosat", "resisc45")  # archives without a split
SPLITS = ("train", "val", "test")


def case(name: str) -> Callable[[Callable[[Path], Truth]], Callable[[Path], Truth]]:
    def file(make: Callable[[Path], Truth]) -> Callable[[Path], Truth]:
        CASES[name] = make
        return make

    return file


class Painter:
    """Pictures that are all different; `save` gives back what a decoder sees."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def pixels(self, *shape: int) -> np.ndarray:
        return self.rng.integers(0, 256, shape, dtype=np.uint8)

    def save(self, path: Path, kind: str | None = None) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels(4, 5, 3)).save(path, kind)
        return decoded(path)


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return rgb(image)


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def class_folders(folder: Path, names: list[str], each: int, pattern: str, paint: Painter) -> list:
    """The truth about `each` images in every class folder, in sorted order; {c} and {i} in `pattern` are filled in."""
    files = ((name, pattern.format(c=name, i=i)) for name in sorted(names) for i in range(1, each + 1))
    return [(name, paint.save(folder / name / file)) for name, file in files]


@case("caltech-101")
def caltech(root: Path) -> Truth:
    folder, names = root / "caltech101" / "101_ObjectCategories", list(catalog()["caltech-101"].classes)
    text(folder / "BACKGROUND_Google" / "tmp", "a stray file")
    return {"all": class_folders(folder, names, 3, "image_{i:04d}.jpg", Painter())}


@case("eurosat")
def eurosat(root: Path) -> Truth:
    names = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    names += ["Residential", "River", "SeaLake"]
    return {"all": class_folders(root / "eurosat" / "2750", names, 6, "{c}_{i}.jpg", Painter())}


@case("resisc45")
def resisc45(root: Path) -> Truth:
    names = [name.replace(" ", "_") for name in catalog()["resisc45"].classes]
    return {"all": class_folders(root / "NWPU-RESISC45", names, 10, "{c}_{i:03d}.jpg", Painter())}


def dump(path: Path, table: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(table, protocol=2))


def cifar_batch(path: Path, key: str, labels: list[int], names: list[str], paint: Painter) -> list:
    data = paint.pixels(len(labels), 3072)
    dump(path, {"data": data, key: labels, "batch_label": path.name})
    return [(names[y], image.reshape(3, 32, 32).transpose(1, 2, 0)) for y, image in zip(labels, data, strict=True)]


@case("cifar-10")
def cifar10(root: Path) -> Truth:
    folder, paint = root / "cifar-10-batches-py", Painter()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    dump(folder / "batches.meta", {"label_names": names, "num_cases_per_batch": 4, "num_vis": 3072})
    train = []
    for batch in range(1, 6):
        train += cifar_batch(folder / f"data_batch_{batch}", "labels", [batch, 0, 9 - batch], names, paint)
    return {"train": train, "test": cifar_batch(folder / "test_batch", "labels", list(range(10)), names, paint)}


@case("cifar-100")
def cifar100(root: Path) -> Truth:
    folder, paint = root / "cifar-100-python", Painter()
    names = sorted(name.replace(" ", "_") for name in catalog()["cifar-100"].classes)
    dump(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["fish"]})
    train = cifar_batch(folder / "train", "fine_labels", [*range(99, -1, -3), 0], names, paint)
    return {"train": train, "test": cifar_batch(folder / "test", "fine_labels", [*range(0, 100, 7)], names, paint)}


def split_folders(root: Path, folders: dict[str, str], names: list[str], suffix: str) -> Truth:
    paint = Painter()
    return {split: class_folders(root / below, names, 1, "{i}" + suffix, paint) for split, below in folders.items()}


@case("country211")
def country211(root: Path) -> Truth:
    row = catalog()["country211"]
    folders = {split: f"country211/{below}" for split, below in zip(SPLITS, ("train", "valid", "test"), strict=True)}
    return split_folders(root, folders, list(row.spellings), ".jpg")


@case("rendered-sst2")
def sst2(root: Path) -> Truth:
    folders = {split: f"rendered-sst2/{below}" for split, below in zip(SPLITS, ("train", "valid", "test"), strict=True)}
    return split_folders(root, folders, ["positive", "negative"], ".png")


@case("dtd")
def dtd(root: Path) -> Truth:
    folder, paint, truth = root / "dtd" / "dtd", Painter(), Truth()
    for i, split in enumerate(SPLITS):
        lines = [f"{name}/{name}_{i:04d}.jpg" for name in catalog()["dtd"].classes]
        truth[split] = [(line.split("/")[0], paint.save(folder / "images" / line)) for line in lines]
        text(folder / "labels" / f"{split}1.txt", *lines)
        text(folder / "labels" / f"{split}2.txt", "another/partition.jpg")
    return truth


@case("fer-2013")
def fer2013(root: Path) -> Truth:
    names = ["angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"]
    paint, truth, rows = Painter(), Truth(train=[], val=[], test=[]), []
    for i in range(21):
        split, usage = [("train", "Training"), ("val", "PublicTest"), ("test", "PrivateTest")][i % 3]
        grey = paint.pixels(48, 48)
        truth[split].append((names[i % 7], rgb(Image.fromarray(grey))))
        rows.append((i % 7, " ".join(map(str, grey.ravel())), usage))
    (root / "fer2013").mkdir(parents=True)
    with open(root / "fer2013" / "fer2013.csv", "w", newline="") as file:
        csv.writer(file).writerows([("emotion", "pixels", "Usage"), *rows])
    return truth


@case("fgvc-aircraft")
def aircraft(root: Path) -> Truth:
    folder, paint, truth = root / "fgvc-aircraft-2013b" / "data", Painter(), Truth()
    official = {"F-16A-B": "F-16A/B", "F-A-18": "F/A-18"}
    names = sorted(official.get(name, name) for name in catalog()["fgvc-aircraft"].classes)
    text(folder / "variants.txt", *names)
    for s, split in enumerate(SPLITS):
        ids = {f"{s:03d}{c:04d}": name for c, name in enumerate(names)}
        truth[split] = [(name, paint.save(folder / "images" / f"{key}.jpg")) for key, name in ids.items()]
        text(folder / f"images_variant_{split}.txt", *(f"{key} {name}" for key, name in ids.items()))
    return truth


@case("food-101")
def food(root: Path) -> Truth:
    folder, paint, truth = root / "food-101", Painter(), Truth()
    names = sorted(name.replace(" ", "_") for name in catalog()["food-101"].classes)
    for s, split in enumerate(("train", "test")):
        listed = {name: [f"{name}/{s}{i}" for i in range(2 - s)] for name in names}
        truth[split] = [
            (name, paint.save(folder / "images" / f"{image}.jpg")) for name in names for image in listed[name]
        ]
        text(folder / "meta" / f"{split}.json", json.dumps(listed))
    return truth


@case("gtsrb")
def gtsrb(root: Path) -> Truth:
    base, paint, train, test = root / "gtsrb", Painter(), [], []
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    for c in range(43):
        folder, names = base / "GTSRB" / "Training" / f"{c:05d}", [f"00000_{i:05d}.ppm" for i in range(2)]
        train += [(c, paint.save(folder / name)) for name in names]
        text(folder / f"GT-{c:05d}.csv", header, *(f"{name};5;4;1;1;3;3;{c}" for name in names))
    order = [(i * 7) % 43 for i in range(43)]
    for i, c in enumerate(order):
        test.append((c, paint.save(base / "GTSRB" / "Final_Test" / "Images" / f"{i:05d}.ppm")))
    text(base / "GT-final_test.csv", header, *(f"{i:05d}.ppm;5;4;1;1;3;3;{c}" for i, c in enumerate(order)))
    return {"train": train, "test": test}


@case("hateful-memes")
def memes(root: Path) -> Truth:
    folder, paint, truth = root / "hateful-memes", Painter(), Truth()
    for s, (split, file) in enumerate((("train", "train.jsonl"), ("test", "dev.jsonl"), ("unused", "test_seen.jsonl"))):
        entries = [{"id": s * 10 + i, "img": f"img/{s}123{i}.png", "label": i % 2, "text": "ä"} for i in range(4)]
        truth[split] = [(entry["label"], paint.save(folder / entry["img"])) for entry in entries]
        text(folder / file, *(json.dumps({k: v for k, v in e.items() if s < 2 or k != "label"}) for e in entries))
    return {split: truth[split] for split in ("train", "test")}


KITTI = [
    ("Car 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 8.00 -1.5", "near"),
    ("Van 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 8.01 -1.5", "mid"),
    ("Truck 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 20.0 -1.5", "mid"),
    ("Car 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 20.5 -1.5", "far"),
    ("Tram 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 3.0 -1.5", "none"),
    ("Car 0.00 0 -1.58 0 0 9 9 1.6 1.6 3.9 1.0 1.6 50.0 -1.5\nVan 0 0 -1 0 0 9 9 1 1 3 1.0 1.6 -0.5 -1.5", "near"),
]
DONT_CARE = "DontCare -1 -1 -10 0 0 9 9 -1 -1 -1 -1000 -1000 -1000 -10"


@case("kitti-distance")
def kitti(root: Path) -> Truth:
    """24 frames of 12 drives; frames and lines of the mapping are in a different order, as in the devkit."""
    raw, paint = root / "Kitti" / "raw", Painter()
    lines = [f"2011_09_26 drive_{i // 2:02d} {i:010d}" for i in range(24)]
    order = [(i * 5) % 24 + 1 for i in range(24)]
    text(raw / "devkit" / "mapping" / "train_mapping.txt", *lines)
    text(raw / "devkit" / "mapping" / "train_rand.txt", ",".join(map(str, order)))
    truth: Truth = {split: [] for split in SPLITS}
    # The 1st and 2nd draws of numpy's generator with seed 123 among 12 and then 11 sorted drives, written out.
    held_out = {"drive_05": "test", "drive_04": "val"}
    for frame, number in enumerate(order):
        label, name = KITTI[frame % len(KITTI)]
        text(raw / "training" / "label_2" / f"{frame:06d}.txt", label, DONT_CARE)
        pixels = paint.save(raw / "training" / "image_2" / f"{frame:06d}.png")
        truth[held_out.get(lines[number - 1].split()[1], "train")].append((name, pixels))
    return truth


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


@case("mnist")
def mnist(root: Path) -> Truth:
    paint, truth = Painter(), Truth()
    for split, prefix, count in (("train", "train", 20), ("test", "t10k", 10)):
        images, labels = paint.pixels(count, 28, 28), np.arange(count, dtype=np.uint8)[::-1] % 10
        write_idx(root / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
        truth[split] = [(str(y), rgb(Image.fromarray(image))) for y, image in zip(labels, images, strict=True)]
    return truth


@case("oxford-flowers-102")
def flowers(root: Path) -> Truth:
    from scipy.io import savemat

    folder, paint = root / "flowers-102", Painter()
    labels = np.array([c for _ in SPLITS for c in range(102, 0, -1)])
    pixels = [paint.save(folder / "jpg" / f"image_{i + 1:05d}.jpg") for i in range(len(labels))]
    parts = {key: np.arange(1, len(labels) + 1)[s::3] for s, key in enumerate(("trnid", "valid", "tstid"))}
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(folder / "setid.mat", {key: numbers[None].astype(np.uint16) for key, numbers in parts.items()})
    return {
        split: [(int(labels[n - 1]) - 1, pixels[n - 1]) for n in numbers]
        for split, numbers in zip(SPLITS, parts.values(), strict=True)
    }


CATS = {"Abyssinian", "Bengal", "Birman", "Bombay", "British Shorthair", "Egyptian Mau", "Maine Coon", "Persian"}
CATS |= {"Ragdoll", "Russian Blue", "Siamese", "Sphynx"}


@case("oxford-pets")
def pets(root: Path) -> Truth:
    """Some images are not what their suffix says, and the lists are sorted without regard to case."""
    folder, paint, truth = root / "oxford-iiit-pet", Painter(), Truth()
    for s, (split, file) in enumerate((("train", "trainval"), ("test", "test"))):
        truth[split], lines = [], []
        for c, name in enumerate(catalog()["oxford-pets"].classes):
            stem = name.replace(" ", "_") if name in CATS else name.replace(" ", "_").lower()
            kind = {1: "PNG", 2: "GIF", 3: "BMP"}.get(c, "JPEG")
            path = folder / "images" / f"{stem}_{s}{c}.jpg"
            truth[split].append((name, paint.save(path, kind)))
            if c == 4:
                Image.fromarray(paint.pixels(4, 5, 4), "CMYK").save(path, "JPEG")
                truth[split][-1] = (name, decoded(path))
            lines.append(f"{path.stem} {c + 1} {1 if name in CATS else 2} {c}")
        text(folder / "annotations" / f"{file}.txt", *lines)
    return truth


@case("patch-camelyon")
def pcam(root: Path) -> Truth:
    import h5py

    paint, truth = Painter(), Truth()
    (root / "pcam").mkdir(parents=True)
    for split, part in zip(SPLITS, ("train", "valid", "test"), strict=True):
        images, labels = paint.pixels(5, 96, 96, 3), np.array([0, 1, 1, 0, 1], dtype=np.uint8)
        stem = root / "pcam" / f"camelyonpatch_level_2_split_{part}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file.create_dataset("x", data=images, chunks=(1, 96, 96, 3), compression="gzip")
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = labels.reshape(-1, 1, 1, 1)
        truth[split] = list(zip(labels.tolist(), images, strict=True))
    return truth


def records(path: Path, rows: list[tuple[str, int]], labelled: bool = True) -> None:
    from scipy.io import savemat

    fields = [("bbox_x1", object), ("fname", object)] + ([("class", object)] if labelled else [])
    table = np.zeros((1, len(rows)), dtype=fields)
    for i, (file, label) in enumerate(rows):
        table["fname"][0, i], table["bbox_x1"][0, i] = file, 3
        if labelled:
            table["class"][0, i] = label
    savemat(path, {"annotations": table})


@case("stanford-cars")
def cars(root: Path) -> Truth:
    from scipy.io import savemat

    folder, paint, truth = root / "stanford_cars", Painter(), Truth()
    names = sorted(name.replace("Ram C V Cargo", "Ram C/V Cargo") for name in catalog()["stanford-cars"].classes)
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(f"{i + 1:05d}.jpg", (i * 5) % 196 + 1) for i in range(196)]
        truth[split] = [(names[label - 1], paint.save(folder / f"cars_{split}" / file)) for file, label in rows]
        records(folder / path, rows)
    records(folder / "devkit" / "cars_test_annos.mat", [("00001.jpg", 0)] * 2, labelled=False)
    return truth


VOC = [("dog",), ("dog", "person", "dog"), ("aeroplane", "tvmonitor"), ("bus", "-car"), ("-cat",), ("train", "-train")]


@case("voc-2007")
def voc(root: Path) -> Truth:
    """A name behind - is the class of an object marked difficult; it does not count."""
    folder, paint, truth = root / "VOCdevkit" / "VOC2007", Painter(), Truth()
    for s, split in enumerate(SPLITS):
        truth[split], ids = [], [f"{s}0000{i}" for i in range(len(VOC))]
        for name, objects in zip(ids, VOC, strict=True):
            pixels = paint.save(folder / "JPEGImages" / f"{name}.jpg")
            truth[split].append((frozenset(label for label in objects if label[0] != "-"), pixels))
            text(folder / "Annotations" / f"{name}.xml", *annotation(name, objects))
        text(folder / "ImageSets" / "Main" / f"{split}.txt", *ids)
    return truth


def annotation(image: str, objects: tuple[str, ...]) -> Iterator[str]:
    yield f"<annotation><filename>{image}.jpg</filename><owner><name>nobody</name></owner>"
    for label in objects:
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>"
        name, hard = label.strip("-"), int(label[0] == "-")
        yield f"<object><name>{name}</name><difficult>{hard}</difficult>{box}<part><name>head</name></part></object>"
    yield "</annotation>"


@case("svhn")
def svhn(root: Path) -> Truth:
    from scipy.io import savemat

    paint, truth = Painter(), Truth()
    for split, count in (("train", 12), ("test", 5)):
        images, digits = paint.pixels(32, 32, 3, count), np.arange(count, dtype=np.uint8)[:, None] % 10 + 1
        savemat(root / f"{split}_32x32.mat", {"X": images, "y": digits}, do_compression=True)
        truth[split] = [(int(d) % 10, images[..., i]) for i, d in enumerate(digits[:, 0])]  # the digit 0 is called 10
    return truth


@case("sun397")
def sun397(root: Path) -> Truth:
    """The list of classes has their paths in full: /a/abbey, /a/apartment_building/outdoor."""
    row, paint, truth = catalog()["sun397"], Painter(), Truth()
    paths = {meant: other.replace(" ", "_") for other, meant in row.spellings.items() if other[1] == "/"}
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        lines = {f"/{path}/sun_{split}.jpg": name for name, path in paths.items()}
        truth[split] = [(name, paint.save(root / "sun397" / f"SUN397{line}")) for line, name in lines.items()]
        text(root / "sun397" / file, *lines)
    return truth


@case("retinopathy")
def retinopathy(root: Path) -> Truth:
    folder, paint, truth = root / "diabetic-retinopathy-detection", Painter(), Truth(train=[], val=[], test=[])
    tables: dict[str, list[str]] = {"train": ["image,level"], "test": ["image,level,Usage"]}
    for i in range(15):
        split = SPLITS[i % 3]
        part, usage = ("train", "") if split == "train" else ("test", ",Public" if split == "val" else ",Private")
        truth[split].append((i % 5, paint.save(folder / part / f"{i}_left.jpeg")))
        tables[part].append(f"{i}_left,{i % 5}{usage}")
    text(folder / "trainLabels.csv", *tables["train"])
    text(folder / "retinopathy_solution.csv", *tables["test"])
    return truth


def clevr(root: Path, label: Callable[[list[float]], str]) -> Truth:
    """Scenes of 3 to 10 objects, whose distances from the camera lie on and beside every bound."""
    folder, paint, truth = root / "clevr" / "CLEVR_v1.0", Painter(), Truth()
    nearest = [7.0, 8.0, 8.000001, 8.5, 8.75, 9.2, 9.75, 10.0, 10.5]
    for split, part in (("train", "train"), ("test", "val")):
        scenes = truth[split] = []
        described = []
        for i, near in enumerate(nearest):
            far = [near + 1 + k for k in range(2 + i % 8)]
            name = f"CLEVR_{part}_{i:06d}.png"
            scenes.append((label([*far, near]), paint.save(folder / "images" / part / name)))
            objects = [{"pixel_coords": [3, 4, z], "shape": "cube"} for z in (*far, near)]
            described.append({"image_filename": name, "objects": objects})
        text(folder / "scenes" / f"CLEVR_{part}_scenes.json", json.dumps({"info": {}, "scenes": described}))
    return truth


@case("clevr-count")
def clevr_count(root: Path) -> Truth:
    return clevr(root, lambda distances: f"{len(distances)} objects")


@case("clevr-distance")
def clevr_distance(root: Path) -> Truth:
    """VTAB's rule as it is written there: the last of these thresholds that is below the least distance."""
    names = catalog()["clevr-distance"].classes
    bounds = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0], np.float32)
    return clevr(root, lambda distances: names[np.flatnonzero(bounds < np.float32(min(distances))).max()])


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number: int, value: bytes) -> bytes:
    """A field of bytes in a message of protocol buffers."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def tf_record(image: bytes, name: str, label: int, packed: bool = True) -> bytes:
    values = {
        "image": field(1, field(1, image)),
        "filename": field(1, field(1, name.encode())),
        "label": field(3, field(1, varint(label)) if packed else varint(1 << 3) + varint(label)),
    }
    entries = (field(1, field(1, key.encode()) + field(2, value)) for key, value in values.items())
    message = field(1, b"".join(entries))
    return struct.pack("<Q4x", len(message)) + message + bytes(4)


@case("dmlab")
def dmlab(root: Path) -> Truth:
    folder, paint, truth = root / "dmlab", Painter(), Truth()
    folder.mkdir()
    for split, part in (("train", "train"), ("val", "validation"), ("test", "test")):
        truth[split] = []
        for shard in range(2):
            records = b""
            for i in range(3):
                picture = folder / "picture.png"
                truth[split].append((3 * shard + i, paint.save(picture)))
                records += tf_record(picture.read_bytes(), f"{part}/{shard}{i}.png", 3 * shard + i, i > 0)
            (folder / f"dmlab-{part}.tfrecord-{shard:05d}-of-00002").write_bytes(records)
    picture.unlink()
    return truth


def norb_matrix(path: Path, magic: int, array: np.ndarray) -> None:
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    path.write_bytes(struct.pack(f"<{2 + len(sizes)}I", magic, array.ndim, *sizes) + array.tobytes())


def smallnorb(root: Path, label: Callable[[np.ndarray], int]) -> Truth:
    folder, paint, truth = root / "smallnorb", Painter(), Truth()
    folder.mkdir()
    parts = {"train": "5x46789x9x18x6x2x96x96-training", "test": "5x01235x9x18x6x2x96x96-testing"}
    for split, part in parts.items():
        images = paint.pixels(18, 2, 9, 9)
        facts = np.array([[3, i % 9, 2 * i, 5] for i in range(18)], dtype="<i4")  # instance, elevation, azimuth, light
        norb_matrix(folder / f"smallnorb-{part}-dat.mat", 0x1E3D4C55, images)
        norb_matrix(folder / f"smallnorb-{part}-info.mat", 0x1E3D4C54, facts)
        truth[split] = [(label(fact), rgb(Image.fromarray(pair[0]))) for fact, pair in zip(facts, images, strict=True)]
    return truth


@case("smallnorb-azimuth")
def smallnorb_azimuth(root: Path) -> Truth:
    return smallnorb(root, lambda facts: int(facts[2]) // 2)


@case("smallnorb-elevation")
def smallnorb_elevation(root: Path) -> Truth:
    return smallnorb(root, lambda facts: int(facts[1]))


@case("ucf101")
def ucf101(root: Path) -> Truth:
    names = [name.replace(" ", "_") for name in catalog()["ucf101"].classes]
    return split_json(root / "ucf101", "split_zhou_UCF101.json", "UCF-101-midframes", names)


def split_json(folder: Path, file: str, images: str, names: list[str]) -> Truth:
    """A split file of CoOp for a few pictures, each of which stands for several classes; it numbers `names`."""
    paint, truth, table = Painter(), Truth(), {}
    for split in SPLITS:
        paths = [f"a folder/{split}_{i}.jpg" for i in range(3)]
        pixels = [paint.save(folder / images / path) for path in paths]
        truth[split] = [(name, pixels[i % 3]) for i, name in enumerate(names)]
        table[split] = [[paths[i % 3], i, name] for i, name in enumerate(names)]
    text(folder / file, json.dumps(table))
    return truth


def vtab1k(root: Path, name: str) -> Truth:
    """A set of VTAB-1k, with its numbers of classes."""
    row, paint, truth = catalog()[f"vtab1k-{name}"], Painter(), Truth()
    folder, last = root / row.sources[0]["folders"][0], len(row.classes) - 1
    lists = {"train800val200.txt": ("train", [0, last, last // 2]), "test.txt": ("test", [last, 0])}
    for file, (split, labels) in lists.items():
        paths = {f"images/{split}/{i:06d}.jpg": label for i, label in enumerate(labels)}
        truth[split] = [(label, paint.save(folder / path)) for path, label in paths.items()]
        text(folder / file, *(f"{path} {label}" for path, label in paths.items()))
    return truth


def zipped(path: Path) -> None:
    """Replace a file by its gzipped form."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()

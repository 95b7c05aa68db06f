"""Original archives that are incomplete, damaged or dangerous: one error that names the file and the remedy."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from native_cases import dump, norb_matrix, records, text, tf_record, zipped

from vitadapt.data import open_dataset
from vitadapt.data.readers.restricted_pickle import read_pickle
from vitadapt.utils.errors import DataError

Original = Callable[[str], tuple[Path, dict]]
Damage = Callable[[Path], object]


def remove(path: str) -> Damage:
    def damage(root: Path) -> None:
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def cut(path: str, keep: int = 40) -> Damage:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:keep])


def put(path: str, *lines: str) -> Damage:
    return lambda root: text(root / path, *lines)


def swap(path: str, old: str, new: str) -> Damage:
    return lambda root: text(root / path, (root / path).read_text("utf-8").replace(old, new, 1).rstrip("\n"))


def pickled(path: str, **changes: object) -> Damage:
    def damage(root: Path) -> None:
        dump(root / path, {**read_pickle(root / path), **changes})

    return damage


def mat(path: str, **variables: object) -> Damage:
    def damage(root: Path) -> None:
        from scipy.io import savemat

        savemat(root / path, variables)

    return damage


def h5(path: str, key: str, values: np.ndarray) -> Damage:
    def damage(root: Path) -> None:
        import h5py

        with h5py.File(root / path, "w") as file:
            file[key] = values

    return damage


def moved(old: str, new: str) -> Damage:
    return lambda root: (root / old).rename(root / new)


C10, VOC, KITTI = "cifar-10-batches-py", "VOCdevkit/VOC2007", "Kitti/raw"
PCAM, AIR, SIGNS = "pcam/camelyonpatch_level_2_split", "fgvc-aircraft-2013b/data", "gtsrb/GTSRB"
TEST_SIGNS = "gtsrb/GT-final_test.csv"
MAPPING = f"{KITTI}/devkit/mapping"
PETS = "oxford-iiit-pet/annotations/test.txt"
FER = "fer2013/fer2013.csv"
FLOWERS = "flowers-102"
CARS = "stanford_cars"
MEMES = "hateful-memes"
DMLAB = "dmlab/dmlab-train.tfrecord"
NORB = "smallnorb/smallnorb-5x46789x9x18x6x2x96x96-training"
UCF = "ucf101/split_zhou_UCF101.json"

DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "a house number too few": (
        "svhn",
        mat("test_32x32.mat", X=np.zeros((2, 2, 3, 4), np.uint8), y=np.ones((3, 1), np.uint8)),
        "test_32x32.mat does not hold images X with a digit y for each; get the data again",
    ),
    "house numbers without images": (
        "svhn",
        mat("train_32x32.mat", y=np.ones((3, 1), np.uint8)),
        "train_32x32.mat is not a readable MATLAB file with X and y .*get the data again",
    ),
    "a scene without its image": (
        "clevr-count",
        remove("clevr/CLEVR_v1.0/images/val/CLEVR_val_000003.png"),
        "val_scenes.json lists files that are not in .*CLEVR_val_000003.png; unpack the whole archive",
    ),
    "a scene without objects": (
        "clevr-distance",
        put("clevr/CLEVR_v1.0/scenes/CLEVR_val_scenes.json", '{"scenes": [{"image_filename": "x", "objects": []}]}'),
        "val_scenes.json is not a list of scenes with their objects",
    ),
    "a scene file that is a list": (
        "clevr-count",
        put("clevr/CLEVR_v1.0/scenes/CLEVR_val_scenes.json", "[]"),
        "val_scenes.json is not a list of scenes",
    ),
    "too few objects": (
        "clevr-count",
        swap("clevr/CLEVR_v1.0/scenes/CLEVR_train_scenes.json", '"objects": [', '"objects": [], "others": ['),
        "labels -3..",
    ),
    "records are cut": ("dmlab", cut(f"{DMLAB}-00000-of-00002", 60), "is not a readable file of records .*cut off"),
    "a record too long": (
        "dmlab",
        lambda root: (root / f"{DMLAB}-00000-of-00002").write_bytes(b"\xff" * 40),
        "is not a readable file of records",
    ),
    "a record whose file lies elsewhere": (
        "dmlab",
        lambda root: (root / f"{DMLAB}-00001-of-00002").write_bytes(tf_record(b"x", "../x.png", 1)),
        r"lists '../x.png', which is not a path below its folder",
    ),
    "no records": ("dmlab", lambda root: [f.unlink() for f in (root / "dmlab").glob("*test*")], "has no dmlab-test"),
    "a matrix of another kind": (
        "smallnorb-azimuth",
        lambda root: (root / f"{NORB}-dat.mat").write_bytes((root / f"{NORB}-info.mat").read_bytes()),
        "training-dat.mat is not a NORB matrix of uint8 with 4 axes",
    ),
    "a matrix is cut": ("smallnorb-azimuth", cut(f"{NORB}-dat.mat", 200), "holds 200 bytes instead of"),
    "facts about other images": (
        "smallnorb-elevation",
        lambda root: norb_matrix(root / f"{NORB}-info.mat", 0x1E3D4C54, np.zeros((3, 4), "<i4")),
        "training-info.mat does not describe the 18 images of",
    ),
    "an unknown usage of an eye": (
        "retinopathy",
        swap("diabetic-retinopathy-detection/retinopathy_solution.csv", "Public", "Secret"),
        "line 2 has the unknown usage 'Secret'",
    ),
    "an eye is missing": (
        "retinopathy",
        remove("diabetic-retinopathy-detection/test/1_left.jpeg"),
        "lists files that are not in .*1_left.jpeg",
    ),
    "a split file without a split": ("ucf101", put(UCF, '{"train": [["a.jpg", 0, "x"]]}'), "no list of .* called val"),
    "a split file with another kind of entry": ("ucf101", put(UCF, '{"train": [["a.jpg", 0]]}'), "called train"),
    "a class with two names": (
        "ucf101",
        swap(UCF, '1, "Apply_Lipstick"', '0, "Apply_Lipstick"'),
        "calls class 0 'Apply_Eye_Makeup' and 'Apply_Lipstick'",
    ),
    "a split file leads out": ("ucf101", swap(UCF, "a folder/", "../"), "which is not a path below its folder"),
    "a number left out": (
        "ucf101",
        put(UCF, json.dumps({split: [["a folder/test_0.jpg", 1, "Archery"]] for split in ("train", "val", "test")})),
        "does not number its 1 classes from 0 on",
    ),
    "a batch is missing": ("cifar-10", remove(f"{C10}/data_batch_3"), "data_batch_3 is missing; unpack the whole arch"),
    "a batch is cut": (
        "cifar-10",
        cut(f"{C10}/data_batch_3"),
        "data_batch_3 is not a readable pickle .*get the data",
    ),
    "a batch is empty": ("cifar-10", cut(f"{C10}/test_batch", 0), "test_batch is not a readable pickle"),
    "a batch is no table": (
        "cifar-10",
        lambda root: (root / C10 / "test_batch").write_bytes(pickle.dumps([1], 2)),
        "test_batch holds no table",
    ),
    "a label too few": ("cifar-10", pickled(f"{C10}/test_batch", labels=[0] * 9), "has 10 images but 9 labels"),
    "labels of another kind": ("cifar-10", pickled(f"{C10}/test_batch", labels=["x"] * 10), "no list of labels"),
    "labels out of range": ("cifar-10", pickled(f"{C10}/test_batch", labels=[10] * 10), r"labels 10..10, outside 0..9"),
    "pixels of another shape": (
        "cifar-10",
        pickled(f"{C10}/test_batch", data=np.zeros((10, 9), np.uint8)),
        "no data of N x 3072 bytes",
    ),
    "pixels of another type": (
        "cifar-10",
        pickled(f"{C10}/test_batch", data=np.zeros((10, 3072), np.float32)),
        "no data of N x 3072 bytes",
    ),
    "class names are missing": ("cifar-10", remove(f"{C10}/batches.meta"), "batches.meta is missing"),
    "coarse labels only": ("cifar-100", pickled("cifar-100-python/train", fine_labels=None), "no list of fine_labels"),
    "class names are others": (
        "cifar-10",
        pickled(f"{C10}/batches.meta", label_names=["airplane", "whale"] * 5),
        "unknown: 'whale'.*missing: 'automobile', 'bird'.*given twice",
    ),
    "a class folder is missing": ("eurosat", remove("eurosat/2750/River"), "2750 has 9 classes .*missing: 'river'"),
    "a class folder is empty": (
        "eurosat",
        lambda root: [f.unlink() for f in (root / "eurosat/2750/River").iterdir()],
        "River has no images",
    ),
    "a class with two images": (
        "eurosat",
        lambda root: [f.unlink() for f in sorted((root / "eurosat/2750/River").iterdir())[2:]],
        "River has 2 images, too few for train, val, test",
    ),
    "a split is missing": (
        "rendered-sst2",
        remove("rendered-sst2/valid"),
        "valid is missing; unpack the whole archive",
    ),
    "a class only in test": (
        "rendered-sst2",
        moved("rendered-sst2/test/positive", "rendered-sst2/test/mixed"),
        "test has the class 'mixed', which train lacks",
    ),
    "the table lacks usage": ("fer-2013", put(FER, "emotion,pixels", "0,1 2"), "no column usage; take the file with"),
    "an unknown usage": ("fer-2013", swap(FER, "Training", "Tuning"), "line 2 has the unknown usage 'Tuning'"),
    "a pixel too few": ("fer-2013", put(FER, "emotion,pixels,Usage", "0,1 2,Training"), "line 2 has 2 pixels instead"),
    "a pixel too bright": ("fer-2013", put(FER, "emotion,pixels,Usage", "0,1 256,Training"), "not numbers 0..255"),
    "a class that is no number": (
        "fer-2013",
        put(FER, "emotion,pixels,Usage", f"x,{'0 ' * 2304},Training"),
        "line 2 has 'x' where a number was expected",
    ),
    "an unknown emotion": ("fer-2013", swap(FER, "\n6,", "\n7,"), r"labels 0..7, outside 0..6"),
    "the table is cut": ("fer-2013", cut(FER, 60), r"line 2 has 2 fields instead of 3"),
    "an index is missing": ("fgvc-aircraft", remove(f"{AIR}/images_variant_val.txt"), "variant_val.txt is missing"),
    "an image is missing": (
        "fgvc-aircraft",
        remove(f"{AIR}/images/0010007.jpg"),
        r"variant_val.txt lists files that are not in .*images: 0010007.jpg; unpack",
    ),
    "all images are missing": ("fgvc-aircraft", remove(f"{AIR}/images"), r"0000001.jpg, 0000002.jpg and 97 more"),
    "an image elsewhere": (
        "fgvc-aircraft",
        swap(f"{AIR}/images_variant_test.txt", "0020000", "../../secret"),
        "lists '../../secret.jpg', which is not a path below its folder",
    ),
    "an index without classes": (
        "fgvc-aircraft",
        put(f"{AIR}/images_variant_test.txt", "0020000"),
        "line 1 has no class",
    ),
    "an unknown variant": (
        "fgvc-aircraft",
        swap(f"{AIR}/images_variant_test.txt", "737-200", "737-2000"),
        "unknown: '737-2000'",
    ),
    "an index that is no text": (
        "fgvc-aircraft",
        lambda root: (root / AIR / "images_variant_val.txt").write_bytes(b"\xff\xfe\0"),
        "is not a text file in UTF-8",
    ),
    "the other archives": (
        "gtsrb",
        moved(f"{SIGNS}/Training", f"{SIGNS}/Final_Training"),
        "Final_Training mixes .* unpack GTSRB-Training_fixed.zip",
    ),
    "the table of the test signs": ("gtsrb", remove(TEST_SIGNS), "GT-final_test.csv is missing"),
    "a table with commas": ("gtsrb", put(TEST_SIGNS, "Filename,ClassId", "0.ppm,1"), "has no column Filename, ClassId"),
    "a sign is missing": (
        "gtsrb",
        remove(f"{SIGNS}/Training/00007/00000_00001.ppm"),
        "GT-00007.csv lists files that are not in .*: 00000_00001.ppm",
    ),
    "a sign in another folder": (
        "gtsrb",
        swap(f"{SIGNS}/Training/00007/GT-00007.csv", "3;7", "3;8"),
        "another class than its folder",
    ),
    "a folder that is no number": (
        "gtsrb",
        moved(f"{SIGNS}/Training/00007", f"{SIGNS}/Training/stop"),
        "stop has 'stop' where a number was expected",
    ),
    "a sign of class 43": ("gtsrb", moved(f"{SIGNS}/Training/00007", f"{SIGNS}/Training/00043"), r"outside 0..42"),
    "memes without labels": (
        "hateful-memes",
        moved(f"{MEMES}/test_seen.jsonl", f"{MEMES}/dev_seen.jsonl"),
        "line 1 has no label; this file is for a competition",
    ),
    "memes that are no JSON": ("hateful-memes", swap(f"{MEMES}/train.jsonl", "}", ""), "line 1 is not valid JSON"),
    "memes without an image": ("hateful-memes", put(f"{MEMES}/dev.jsonl", '{"label": 1}'), "line 1 has no img"),
    "memes with an absolute path": (
        "hateful-memes",
        put(f"{MEMES}/dev.jsonl", '{"img": "/etc/x", "label": 1}'),
        "lists '/etc/x', which is not a path below",
    ),
    "no devkit": ("kitti-distance", remove(MAPPING), r"mapping is missing; unpack KITTI's devkit_object.zip"),
    "half a devkit": ("kitti-distance", remove(f"{MAPPING}/train_mapping.txt"), "train_mapping.txt is missing"),
    "a line beyond the mapping": (
        "kitti-distance",
        swap(f"{MAPPING}/train_rand.txt", "1,", "99,"),
        "no drive in line 99, which train_rand.txt asks for",
    ),
    "no frames": ("kitti-distance", put(f"{MAPPING}/train_rand.txt", ""), "lists no frames"),
    "two drives": (
        "kitti-distance",
        put(f"{MAPPING}/train_rand.txt", "1,2,3,4"),
        "mapping knows 2 drives, too few",
    ),
    "a frame is missing": ("kitti-distance", remove(f"{KITTI}/training/image_2/000003.png"), "image_2: 000003.png"),
    "a label is missing": ("kitti-distance", remove(f"{KITTI}/training/label_2/000003.txt"), "label_2: 000003.txt"),
    "a label is cut": (
        "kitti-distance",
        cut(f"{KITTI}/training/label_2/000003.txt"),
        "000003.txt: line 1 has 12 fields",
    ),
    "a distance is no number": (
        "kitti-distance",
        swap(f"{KITTI}/training/label_2/000003.txt", "20.5", "nan"),
        "line 1 has 'nan' where a distance was expected",
    ),
    "flowers without labels": (
        "oxford-flowers-102",
        remove(f"{FLOWERS}/imagelabels.mat"),
        "imagelabels.mat is missing",
    ),
    "a .mat file is cut": (
        "oxford-flowers-102",
        cut(f"{FLOWERS}/setid.mat", 150),
        "setid.mat is not a readable MATLAB",
    ),
    "a .mat file is empty": (
        "oxford-flowers-102",
        cut(f"{FLOWERS}/setid.mat", 0),
        "setid.mat is not a readable MATLAB",
    ),
    "a .mat file lacks a split": ("oxford-flowers-102", mat(f"{FLOWERS}/setid.mat", trnid=[1], valid=[2]), "no tstid"),
    "an image beyond the labels": (
        "oxford-flowers-102",
        mat(f"{FLOWERS}/setid.mat", trnid=[1], valid=[2], tstid=[400]),
        r"lists images outside 1..306",
    ),
    "an image in two splits": (
        "oxford-flowers-102",
        mat(f"{FLOWERS}/setid.mat", trnid=[1], valid=[2], tstid=[1]),
        "lists an image twice",
    ),
    "numbers with fractions": (
        "oxford-flowers-102",
        mat(f"{FLOWERS}/imagelabels.mat", labels=[1.5, 2.0]),
        "labels is not a list of whole numbers",
    ),
    "a flower is missing": ("oxford-flowers-102", remove(f"{FLOWERS}/jpg/image_00004.jpg"), "jpg: image_00004.jpg"),
    "one id for two breeds": ("oxford-pets", swap(PETS, "beagle_14 5 ", "beagle_14 4 "), "gives beagle the class id 4"),
    "two ids for one breed": ("oxford-pets", swap(PETS, "beagle_14 5 ", "boxer_14 5 "), "gives boxer the class id 9"),
    "pets without ids": ("oxford-pets", put(PETS, "beagle_14"), "line 1 is not class_number followed by"),
    "labels are missing": (
        "patch-camelyon",
        remove(f"{PCAM}_valid_y.h5"),
        "valid_y.h5 is missing; get it, plain or as",
    ),
    "an h5 file is cut": ("patch-camelyon", cut(f"{PCAM}_valid_x.h5", 900), "valid_x.h5 is not a readable HDF5 file"),
    "an h5 file of another key": (
        "patch-camelyon",
        h5(f"{PCAM}_test_y.h5", "z", np.zeros((5, 1, 1, 1), "u1")),
        "test_y.h5 has no array y",
    ),
    "an h5 file of texts": (
        "patch-camelyon",
        h5(f"{PCAM}_test_y.h5", "y", np.zeros((5, 1, 1, 1), "f4")),
        "test_y.h5 has no array y of whole numbers",
    ),
    "more images than labels": (
        "patch-camelyon",
        h5(f"{PCAM}_test_y.h5", "y", np.zeros((4, 1, 1, 1), "u1")),
        "has 5 images but .*test_y.h5 4 labels",
    ),
    "a gzipped file is cut": (
        "patch-camelyon",
        lambda root: (zipped(root / f"{PCAM}_test_x.h5"), cut(f"{PCAM}_test_x.h5.gz", 900)(root)),
        "test_x.h5.gz cannot be decompressed",
    ),
    "cars without labels": (
        "stanford-cars",
        remove(f"{CARS}/cars_test_annos_withlabels.mat"),
        "devkit/cars_test_annos.mat has no fname and class .*; take the file with labels",
    ),
    "cars that were renamed": (
        "stanford-cars",
        moved(f"{CARS}/cars_test/00001.jpg", f"{CARS}/cars_test/1.jpg"),
        "withlabels.mat lists files that are not in .*cars_test: 00001.jpg",
    ),
    "a car of class 0": (
        "stanford-cars",
        lambda root: records(root / CARS / "devkit/cars_train_annos.mat", [("00001.jpg", 0), ("00002.jpg", 1)]),
        r"train has labels -1..0, outside 0..195",
    ),
    "no car names": ("stanford-cars", remove(f"{CARS}/devkit/cars_meta.mat"), "cars_meta.mat is missing"),
    "no annotation": ("voc-2007", remove(f"{VOC}/Annotations/000001.xml"), "000001.xml is missing"),
    "an annotation is cut": ("voc-2007", cut(f"{VOC}/Annotations/000001.xml"), "000001.xml is not valid XML"),
    "an unknown object": ("voc-2007", swap(f"{VOC}/Annotations/000001.xml", ">dog<", ">wolf<"), "unknown class 'wolf'"),
    "XML that expands": (
        "voc-2007",
        put(f"{VOC}/Annotations/000001.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
        "000001.xml has declarations",
    ),
    "another kind of XML": ("voc-2007", put(f"{VOC}/Annotations/000001.xml", "<svg/>"), "is not an annotation"),
    "no list of the test images": ("voc-2007", remove(f"{VOC}/ImageSets/Main/test.txt"), "test.txt is missing"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named_in_one_line(what: str, tmp_path: Path, native_copy: Original) -> None:
    name, damage, message = DAMAGES[what]
    root = tmp_path / "root"
    shutil.copytree(native_copy(name)[0], root)
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(name, root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)

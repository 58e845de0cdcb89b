"""Data sets of tensorflow-datasets, prepared here in its own format, and the real MNIST."""

import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import data, files
from mfcnn.data import sources
from tests.tolerances import float32

MNIST_DIR = pathlib.Path(__file__).parents[3] / "shared" / "tfds"


def prepare(name, data_dir, splits):
    """Writes examples with the library's writer and the data set's own features and version."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    pathlib.Path(builder.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=16)
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()


def small_examples(name, count, seed):
    rng = np.random.default_rng(seed)
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    labels = rng.integers(0, 10, count)
    examples = [{"image": image, "label": label} for image, label in zip(images, labels)]
    if name == "cifar10":
        examples = [{**example, "id": str(i)} for i, example in enumerate(examples)]
    return examples


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_small_data_sets_are_read_from_their_prepared_files(name, tmp_path):
    splits = {"train": small_examples(name, 40, 0), "test": small_examples(name, 11, 1)}
    prepare(name, tmp_path, splits)
    record = data.load(name, 8, data_dir=tmp_path)
    assert record.image_shape == splits["train"][0]["image"].shape
    assert (record.train_size, record.test_size, record.classes) == (40, 11, 10)
    for split in ("train", "test"):
        images, labels = record.arrays(split)
        pixels = np.rint((images * record.std + record.mean) * 255)
        stored = {(e["image"].tobytes(), int(e["label"])) for e in splits[split]}
        assert stored == {(p.tobytes(), int(y)) for p, y in zip(pixels.astype(np.uint8), labels)}
    pixels = np.stack([example["image"] for example in splits["train"]]) / 255
    np.testing.assert_allclose(record.mean, pixels.mean(axis=(0, 1, 2)), rtol=float32.rounded)
    np.testing.assert_allclose(record.std, pixels.std(axis=(0, 1, 2)), rtol=float32.rounded)


def test_the_environment_names_the_directory(tmp_path, monkeypatch):
    examples = small_examples("mnist", 20, 2)
    prepare("mnist", tmp_path, {"train": examples, "test": examples[:5]})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data.load("mnist", 4).train_size == 20


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Snakes of one brightness a class, oblong, among other animals; and how many there are."""
    data_dir = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    others = ["n01440764", "n01756291", "n15075141"]  # a fish, a snake that is none of the ten, ...

    def examples(per_class):
        result = []
        for index, label in enumerate([*data.SNAKE_WORDNET_IDS, *others] * per_class):
            value = 20 * (index % 13)
            shape = (int(rng.integers(20, 50)), int(rng.integers(20, 50)), 3)
            image = np.full(shape, value, np.uint8)
            result.append({"image": image, "label": label, "file_name": f"{index}.JPEG"})
        return result

    prepare("imagenet2012", data_dir, {"train": examples(4), "validation": examples(1)})
    return data_dir


def test_snakes_are_ten_different_snakes_of_imagenet():
    import tensorflow_datasets as tfds

    labels = pathlib.Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    names = labels.read_text().split()
    indices = [names.index(wordnet_id) for wordnet_id in data.SNAKE_WORDNET_IDS]
    assert len(set(indices)) == 10
    # ImageNet's snakes are its classes 52, thunder snake, to 68, sidewinder.
    assert set(indices) <= set(range(52, 69))


@pytest.mark.parametrize("resize", [None, 16])
def test_snakes_are_picked_relabelled_and_resized(imagenet, resize):
    record = data.load("imagenet_snakes", 8, data_dir=imagenet, resize=resize)
    side = resize or 224
    assert (record.train_size, record.test_size, record.classes) == (40, 10, 10)
    assert record.image_shape == (side, side, 3)
    assert record.class_names == data.SNAKE_WORDNET_IDS
    for split in ("train", "test"):
        images, labels = record.arrays(split)
        assert set(np.bincount(labels)) == {len(labels) // 10}
        pixels = (images * record.std + record.mean) * 255
        # JPEG keeps a constant image within about a step of its value.
        assert np.abs(pixels - 20 * labels[:, None, None, None]).max() < 2.5


def test_snakes_stream_in_static_batches_and_resume(imagenet):
    record = data.load("imagenet_snakes", 8, data_dir=imagenet, resize=16, subset=20)
    assert record.train.element_spec[0].shape == (8, 16, 16, 3)
    batches = list(record.train.take(5))
    np.testing.assert_array_equal(batches[4][0], next(iter(record.train_batches(4)))[0])
    assert sum(float(np.sum(weights)) for _, _, weights in record.test) == 10


def test_snakes_are_kept_in_the_cache(imagenet, tmp_path, monkeypatch):
    arguments = {"data_dir": imagenet, "resize": 16, "cache_dir": tmp_path / "cache"}
    first = data.load_arrays("imagenet_snakes", **arguments)
    monkeypatch.setattr(sources, "_scan", lambda *_: pytest.fail("read all of ImageNet again"))
    second = data.load_arrays("imagenet_snakes", **arguments)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "imagenet_snakes"])
def test_what_is_not_prepared_says_what_to_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_why_unreachable", lambda url: f"{url} does not answer")
    stored_name = "imagenet2012" if name == "imagenet_snakes" else name
    builder = rf"tfds.builder\('{stored_name}', data_dir='{tmp_path}'\)"
    command = rf"TFDS_DATA_DIR.*{builder}.download_and_prepare\(\)"
    with pytest.raises(data.DatasetNotPreparedError, match=f"(?s){tmp_path}.*{command}"):
        data.load(name, 8, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_download_is_tried_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_why_unreachable", lambda url: pytest.fail("asked the network"))
    with pytest.raises(data.DatasetNotPreparedError, match="not asked for"):
        data.load("mnist", 8, data_dir=tmp_path, download=False)


def test_a_server_that_does_not_answer_is_noticed():
    # Port 9 of this machine: refused at once, or no answer within the time limit.
    assert "does not answer" in sources._why_unreachable("http://127.0.0.1:9/")


@pytest.mark.skipif(not MNIST_DIR.exists(), reason=f"no prepared MNIST in {MNIST_DIR.name}")
def test_the_real_mnist_has_its_published_statistics():
    before = sorted(os.listdir(MNIST_DIR / "mnist"))
    record = data.load("mnist", 100, data_dir=MNIST_DIR)
    assert (record.train_size, record.test_size) == (60_000, 10_000)
    # 0.1307 and 0.3081 are the mean and deviation that everyone uses.
    np.testing.assert_allclose(record.mean, 0.1307, atol=5e-5)
    np.testing.assert_allclose(record.std, 0.3081, atol=5e-5)
    images, labels = next(iter(record.train))
    assert images.shape == (100, 28, 28, 1) and len(np.unique(labels)) == 10
    assert sum(float(np.sum(weights)) for _, _, weights in record.test) == 10_000
    assert sorted(os.listdir(MNIST_DIR / "mnist")) == before


def records():
    return [bytes([label % 10]) + bytes(range(label, label + 40)) for label in range(12)]


@pytest.mark.parametrize("how", ["cut", "a record less", "flipped", "emptied", "older"])
def test_a_damaged_cache_is_named_and_never_shorter(tmp_path, how):
    path = tmp_path / "imagenet_snakes-5.1.0-train"
    sources._write_records(path, records())
    assert sources._read_records(path) == records()
    content = bytearray(path.read_bytes())
    size = len(records()[0]) + 16  # of a record in its frame
    if how == "a record less":
        content = content[size:]
    elif how == "older":
        content = content[: 12 * size]
    elif how == "flipped":
        content[3 * size + 20] ^= 1
    path.write_bytes({"cut": content[:-5], "emptied": b""}.get(how, content))
    with pytest.raises(files.DamagedFileError, match=f"{path.name} is damaged .*Remove it"):
        sources._read_records(path)


@pytest.mark.parametrize("how", ["cut", "flipped", "shorter"])
def test_damaged_files_of_a_prepared_data_set_are_named(tmp_path, how):
    """A stand-in for a builder, on real record files."""
    path = tmp_path / "mnist.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records():
            writer.write(record)
    content = bytearray(path.read_bytes())
    content[100] ^= 1 if how == "flipped" else 0
    path.write_bytes(content[: {"cut": -5, "shorter": -57}.get(how, len(content))])
    split = types.SimpleNamespace(num_examples=12)
    builder = types.SimpleNamespace(
        data_dir=str(tmp_path), info=types.SimpleNamespace(splits={"train": split})
    )
    with pytest.raises(files.DamagedFileError, match="Remove that directory and prepare"):
        with sources._whole(builder):
            count = len(list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()))
        sources._check_count(builder, "train", count)

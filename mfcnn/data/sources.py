"""Where the examples come from: scikit-learn's digits and tensorflow-datasets.

A source holds every example in host memory: pixels as uint8, or, for ImageNet, the encoded
JPEG files, which the pipeline decodes batch by batch. So any order costs nothing.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn import arguments, files

__all__ = ["NAMES", "SNAKE_WORDNET_IDS", "DatasetNotPreparedError", "Examples", "Source", "read"]

# The linearization paper takes ten snake classes of ImageNet 2012 and does not say which. Of the
# seventeen there these are the first ten in WordNet's order: thunder, ringneck, hognose, green,
# king, garter, water, vine and night snake, boa constrictor.
SNAKE_WORDNET_IDS = (
    "n01728572",
    "n01728920",
    "n01729322",
    "n01729977",
    "n01734418",
    "n01735189",
    "n01737021",
    "n01739381",
    "n01740131",
    "n01742172",
)

# Where tensorflow-datasets would download from: asked first, for it retries for minutes.
_DOWNLOAD_URLS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz"
    ),
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
}

NAMES = ("digits", *_DOWNLOAD_URLS, "imagenet_snakes")


class DatasetNotPreparedError(FileNotFoundError):
    """The data set is not on disk and cannot be downloaded; the message says what to run."""


class Examples(NamedTuple):
    """Images, uint8 [n, h, w, c] or an object array [n] of encoded files, and labels, int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Source(NamedTuple):
    """Both splits, the names of the classes and the pixel value that stands for 1."""

    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    scale: float = 255.0


def read(
    name: str,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    download: bool = True,
) -> Source:
    """Reads a data set by name.

    Args:
        name: one of `NAMES`.
        data_dir: tensorflow-datasets directory; None is $TFDS_DATA_DIR, else its default.
        cache_dir: where the snakes found in ImageNet are kept for the next call, or None.
        download: whether a data set that is not prepared may be downloaded.

    Returns:
        The `Source`.

    Raises:
        ValueError: an unknown name.
        DatasetNotPreparedError: it is not prepared and cannot be downloaded.
    """
    arguments.choice("name", name, NAMES)
    if name == "digits":
        return _digits()
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    data_dir = data_dir and os.path.abspath(os.path.expanduser(data_dir))
    if name == "imagenet_snakes":
        return _imagenet_snakes(data_dir, cache_dir)
    return _small(name, data_dir, download)


@functools.lru_cache(maxsize=1)
def _digits() -> Source:
    """scikit-learn's 1,797 digits, 8 x 8, values 0..16: 1,437 for training and 360 for testing.

    Shuffled by a fixed seed and sorted by class; every fifth is a test example.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    order = order[np.argsort(bunch.target[order], kind="stable")]
    is_test = np.arange(len(order)) % 5 == 0

    def take(indices: np.ndarray) -> Examples:
        images = bunch.images[indices].astype(np.uint8)[..., None]
        return Examples(images, bunch.target[indices].astype(np.int32))

    train, test = take(np.sort(order[~is_test])), take(np.sort(order[is_test]))
    return Source(train, test, tuple(str(digit) for digit in range(10)), 16.0)


@functools.lru_cache(maxsize=2)
def _small(name: str, data_dir: str | None, download: bool) -> Source:
    builder = _prepared_builder(name, data_dir, download)

    def take(split: str) -> Examples:
        with _whole(builder):
            batches = list(builder.as_dataset(split=split).batch(1000).as_numpy_iterator())
        images = np.concatenate([batch["image"] for batch in batches])
        _check_count(builder, split, len(images))
        return Examples(images, np.concatenate([batch["label"] for batch in batches], dtype="i4"))

    return Source(take("train"), take("test"), tuple(builder.info.features["label"].names))


def _imagenet_snakes(data_dir: str | None, cache_dir: str | None) -> Source:
    """Encoded images of ten classes: train from ImageNet's train split, test from validation."""
    builder = _prepared_builder("imagenet2012", data_dir, download=False)
    names = builder.info.features["label"].names
    missing = [wordnet_id for wordnet_id in SNAKE_WORDNET_IDS if wordnet_id not in names]
    if missing:
        raise ValueError(f"imagenet2012 in {builder.data_dir} has no class {', '.join(missing)}")
    new_label = np.full(len(names), -1, np.int32)
    new_label[[names.index(wordnet_id) for wordnet_id in SNAKE_WORDNET_IDS]] = range(10)

    def take(split: str) -> Examples:
        cache = cache_dir and pathlib.Path(cache_dir, f"imagenet_snakes-{builder.version}-{split}")
        records = _read_records(cache) if cache and cache.exists() else None
        if records is None:
            records = _scan(builder, split, new_label)
            if cache:
                _write_records(cache, records)
        images = np.empty(len(records), object)
        images[:] = [record[1:] for record in records]
        return Examples(images, np.array([record[0] for record in records], np.int32))

    return Source(take("train"), take("validation"), SNAKE_WORDNET_IDS)


def _scan(builder: Any, split: str, new_label: np.ndarray) -> list[bytes]:
    """The examples of a split with a new label, as label byte and encoded image."""
    import tensorflow_datasets as tfds

    undecoded = {"image": tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, decoders=undecoded)
    new_label = tf.constant(new_label)
    dataset = dataset.map(
        lambda example: (example["image"], tf.gather(new_label, example["label"]))
    )
    dataset = dataset.filter(lambda image, label: label >= 0)
    with _whole(builder):
        return [bytes([label]) + image for image, label in dataset.as_numpy_iterator()]


@contextlib.contextmanager
def _whole(builder: Any) -> Iterator[None]:
    """Turns the errors of damaged files of a data set into one that names it."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.partition("\n")[0]
        raise _damaged(builder, reason) from error


def _check_count(builder: Any, split: str, count: int) -> None:
    """A file that was cut between two of its records is not seen otherwise."""
    expected = builder.info.splits[split].num_examples
    if count != expected:
        raise _damaged(builder, f"{count} of the {expected} examples of the split {split!r}")


def _damaged(builder: Any, problem: str) -> files.DamagedFileError:
    return files.DamagedFileError(
        builder.data_dir, problem, "Remove that directory and prepare the data set again."
    )


# The last record of a cache, after as many others: no label is 255.
_END = b"\xff"


def _read_records(path: pathlib.Path) -> list[bytes]:
    """The records of a cache."""
    try:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except tf.errors.OpError as error:
        records, reason = [], error.message.partition("\n")[0]
    else:
        reason = "its end is missing"
    if not records or records[-1] != _END + str(len(records) - 1).encode():
        raise files.DamagedFileError(path, reason, "Remove it: it is made again from ImageNet.")
    return records[:-1]


def _write_records(path: pathlib.Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(partial: pathlib.Path) -> None:
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for record in [*records, _END + str(len(records)).encode()]:
                writer.write(record)

    files.write_atomically(path, write)


def _prepared_builder(name: str, data_dir: str | None, download: bool) -> Any:
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if builder.is_prepared():
        return builder
    if name == "imagenet2012":
        manual = pathlib.Path(builder.data_dir).parents[1] / "downloads" / "manual"
        raise _not_prepared(
            builder,
            data_dir,
            "ImageNet has to be downloaded by hand",
            f"put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {manual} and run",
        )
    if not download:
        raise _not_prepared(builder, data_dir, "downloading was not asked for")
    unreachable = _why_unreachable(_DOWNLOAD_URLS[name])
    if unreachable:
        raise _not_prepared(builder, data_dir, unreachable)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise _not_prepared(builder, data_dir, f"the download failed: {error}") from error
    return builder


def _not_prepared(
    builder: Any, data_dir: str | None, reason: str, remedy: str = "run, with a network"
) -> DatasetNotPreparedError:
    arguments = f"{builder.name!r}" + (f", data_dir={data_dir!r}" if data_dir else "")
    return DatasetNotPreparedError(
        f"The data set {builder.name!r} is not prepared in {builder.data_dir}, and {reason}. If it "
        f"is prepared elsewhere, set TFDS_DATA_DIR to that directory; else {remedy}\n"
        '    python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({arguments}).download_and_prepare()"\n'
        "The data set 'digits' needs no download."
    )


def _why_unreachable(url: str) -> str | None:
    """None if the server answers within seconds, else the reason."""
    import requests

    try:
        requests.head(url, timeout=5, allow_redirects=True)
    except requests.RequestException as error:
        return f"its server {url} does not answer ({type(error).__name__})"
    return None

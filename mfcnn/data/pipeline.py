"""Batches of normalized images in an order that depends only on (seed, epoch).

Batch s of the training data is the same set of examples for every number of workers, and can be
asked for directly: a run that stopped after step s goes on with `train_batches(start_step=s)`.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.data import sources
from mfcnn.data.images import as_tensor, decoder, moved, statistics

__all__ = ["ImageData", "load", "load_arrays"]

# Enough for decoding JPEG files; each call holds a batch.
_PARALLEL_CALLS = min(16, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A data set with its order, batch size and normalization.

    Attributes:
        name: the data set.
        image_shape: (height, width, channels).
        class_names: one name for each label.
        batch_size: global batch size: of all replicas together.
        seed: of the shuffles.
        mean: per channel, of the training examples in use, pixels in [0, 1]; float64 [channels].
        std: likewise the standard deviation, 1 for a channel that is constant.
        shift: training images are moved by up to so many pixels up, down and aside.
    """

    name: str
    image_shape: tuple
    class_names: tuple
    batch_size: int
    seed: int
    mean: np.ndarray
    std: np.ndarray
    shift: int
    _splits: dict = dataclasses.field(repr=False)
    _decode: Callable = dataclasses.field(repr=False)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def train_size(self) -> int:
        """Number of training examples in use."""
        return len(self._splits["train"].labels)

    @property
    def test_size(self) -> int:
        """Number of test examples."""
        return len(self._splits["test"].labels)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples; the few left over differ in each epoch."""
        return self.train_size // self.batch_size

    @property
    def train(self) -> tf.data.Dataset:
        """`train_batches()`."""
        return self.train_batches()

    @property
    def test(self) -> tf.data.Dataset:
        """`test_batches()`."""
        return self.test_batches()

    def train_batches(
        self, start_step: int = 0, input_context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """The endless training batches from a step on; nothing before it is read.

        Each epoch is a new permutation, fixed by (seed, epoch), cut into whole batches. With
        `shift` each image is moved by whole pixels, drawn by (seed, epoch, example), and what
        comes in is black.

        Args:
            start_step: number of global batches that were already used.
            input_context: `tf.distribute.InputContext` of this input pipeline, as
                `strategy.distribute_datasets_from_function` hands it over. Each global batch is
                split among the pipelines, and there into the batches of the replicas.

        Returns:
            A tf.data.Dataset of (images float32 [b, h, w, c], labels int32 [b]), with b the batch
            size of one replica: batch_size without an input_context.

        Raises:
            ValueError: A negative start_step; replicas that do not divide the batch.
        """
        batches = self._gather(self._train_examples(start_step, input_context), "train")
        return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    def train_order(self, steps: int, start_step: int = 0) -> np.ndarray:
        """Which examples the training batches hold, in the order of `arrays("train")`.

        Args:
            steps: number of batches.
            start_step: the first of them.

        Returns:
            int32 [steps, batch_size].

        Raises:
            ValueError: a negative number.
        """
        steps = arguments.integer("steps", steps, 0)
        batches = self._train_examples(start_step, None).take(steps)
        found = [index.numpy() for index, *_ in batches]
        return np.reshape(np.asarray(found, np.int32), [steps, self.batch_size])

    def _train_examples(
        self, start_step: int, input_context: tf.distribute.InputContext | None
    ) -> tf.data.Dataset:
        """Batches of (index, with `shift` also the pixels to move by)."""
        start_step = arguments.integer("start_step", start_step, 0)
        size, batch_size, steps = self.train_size, self.batch_size, self.steps_per_epoch
        split, pipeline = self._split_of_batch(batch_size, input_context)
        start_epoch, first_step = divmod(start_step, steps)

        def index_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(size), seed)
            order = tf.reshape(order[: steps * batch_size], [steps, *split])
            done = tf.where(epoch == start_epoch, first_step, 0)
            mine = tf.reshape(order[done:, pipeline], [-1, split[-1]])
            if not self.shift:
                return tf.data.Dataset.from_tensor_slices((mine,))
            # A seed of its own: the shuffle sorts by this one's numbers.
            own = tf.random.experimental.stateless_fold_in(seed, 1)
            moves = tf.random.stateless_uniform(
                [size, 2], own, -self.shift, self.shift + 1, tf.int32
            )
            return tf.data.Dataset.from_tensor_slices((mine, tf.gather(moves, mine)))

        epochs = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max)
        return epochs.flat_map(index_batches)

    def test_batches(
        self,
        batch_size: int | None = None,
        input_context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """All test examples once, in batches of one size: the last is filled up, with weight 0.

        Args:
            batch_size: global batch size; None is the one of training.
            input_context: as for `train_batches`; every pipeline has equally many batches.

        Returns:
            A tf.data.Dataset of (images float32 [b, h, w, c], labels int32 [b], weights float32
            [b]): weight 1 for each test example, 0 for a filler.

        Raises:
            ValueError: A batch size below 1; replicas that do not divide the batch.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        batch_size = arguments.integer("batch_size", batch_size, 1)
        split, pipeline = self._split_of_batch(batch_size, input_context)
        steps = -(-self.test_size // batch_size)
        indices = np.arange(steps * batch_size, dtype=np.int32)
        weights = (indices < self.test_size).astype(np.float32)
        indices[self.test_size :] = 0
        mine = [
            array.reshape(steps, *split)[:, pipeline].reshape(-1, split[-1])
            for array in (indices, weights)
        ]
        return self._gather(tf.data.Dataset.from_tensor_slices(tuple(mine)), "test")

    def arrays(
        self, split: str = "train", subset: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Examples as NumPy arrays, normalized like the batches.

        Args:
            split: "train" or "test".
            subset: number of examples, shuffled and balanced over the classes; None is all, in
                the order of the data set.

        Returns:
            (images float32 [n, h, w, c], labels int32 [n]).

        Raises:
            ValueError: an unknown split; a subset below 1 or above the split's size.
        """
        arguments.choice("split", split, self._splits)
        images, labels = _take_subset(self._splits[split], subset, self.seed)
        normalize = tf.function(self._normalize, reduce_retracing=True)
        batches = tf.data.Dataset.from_tensor_slices(as_tensor(images)).batch(500)
        return np.concatenate([normalize(batch) for batch in batches]), labels

    def _split_of_batch(
        self, batch_size: int, input_context: tf.distribute.InputContext | None
    ) -> tuple[tuple[int, int, int], int]:
        """([pipelines, replicas of each, examples of each], index of this pipeline)."""
        if input_context is None:
            return (1, 1, batch_size), 0
        replicas = input_context.num_replicas_in_sync
        pipelines = input_context.num_input_pipelines
        if batch_size % replicas or replicas % pipelines:
            raise ValueError(
                f"batch_size must be a multiple of the {replicas} replicas, and these of the "
                f"{pipelines} input pipelines. Received: batch_size={batch_size}"
            )
        split = (pipelines, replicas // pipelines, batch_size // replicas)
        return split, input_context.input_pipeline_id

    def _gather(self, indices: tf.data.Dataset, split: str) -> tf.data.Dataset:
        images, labels = self._splits[split]
        images, labels = as_tensor(images), as_tensor(labels)

        def train_batch(index: tf.Tensor, *moves: tf.Tensor) -> tuple[tf.Tensor, ...]:
            batch = self._normalize(tf.gather(images, index), *moves)
            return batch, tf.gather(labels, index)

        def test_batch(index: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return self._normalize(tf.gather(images, index)), tf.gather(labels, index), weights

        example_batch = train_batch if split == "train" else test_batch

        dataset = indices.map(example_batch, num_parallel_calls=_PARALLEL_CALLS)
        options = tf.data.Options()
        options.deterministic = True
        # The end of an iterator waits for the thread that tunes it: it may sleep for a minute.
        options.autotune.enabled = False
        # The batches are split here already.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return dataset.prefetch(2).with_options(options)

    def _normalize(self, images: tf.Tensor, *moves: tf.Tensor) -> tf.Tensor:
        # A product: graph optimizers may turn a quotient into one, which rounds differently.
        mean, rate = (tf.constant(value, tf.float32) for value in (self.mean, 1 / self.std))
        return (moved(self._decode(images), *moves) - mean) * rate


def load(
    name: str,
    batch_size: int,
    seed: int = 0,
    subset: int | None = None,
    resize: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    download: bool = True,
    test_subset: int | None = None,
    shift: int = 0,
) -> ImageData:
    """Opens a data set for training.

    Pixels are divided by their largest possible value; then each channel gets mean 0 and variance
    1 over the training examples in use, by the statistics of one pass in float64.

    Args:
        name: "digits" (scikit-learn's, needs no download), "mnist", "fashion_mnist", "cifar10" or
            "imagenet_snakes" (ten classes of tensorflow-datasets' imagenet2012).
        batch_size: global batch size, at most the number of training examples.
        seed: of the order and of the subset.
        subset: number of training examples to use, shuffled and balanced over the classes; a
            smaller subset is part of a larger one. None is all.
        resize: side in pixels of the images, antialiased bilinear; of the central square if an
            image is none. None leaves them, and is 224 for imagenet_snakes.
        data_dir: tensorflow-datasets directory; None is $TFDS_DATA_DIR, else its default.
        cache_dir: directory that keeps the snakes found in ImageNet (about 1.5 GB), for without
            it each call reads all of ImageNet. None keeps nothing.
        download: whether mnist, fashion_mnist and cifar10 are downloaded if not prepared.
        test_subset: number of test examples to use, chosen like `subset`. None is all.
        shift: training images are moved by up to so many pixels in each direction, anew in each
            epoch; less than their side. Statistics and test images are of images as they are.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: an unknown name, or a batch_size, subset, test_subset, resize or shift out of
            range.
        DatasetNotPreparedError: not prepared and not downloadable; says what to run.

    Example:
        >>> data = mfcnn.data.load("digits", batch_size=32, seed=0, subset=100)
        >>> data.train_size, data.test_size, data.image_shape
        (100, 360, (8, 8, 1))
        >>> images, labels = next(iter(data.train_batches(start_step=0)))
        >>> images.shape
        TensorShape([32, 8, 8, 1])
    """
    batch_size = arguments.integer("batch_size", batch_size, 1)
    seed = arguments.integer("seed", seed)
    if resize is not None:
        resize = arguments.integer("resize", resize, 1)
    for argument, size in (("subset", subset), ("test_subset", test_subset)):
        if size is not None:
            arguments.integer(argument, size, 1)
    arguments.boolean("download", download)
    shift = arguments.integer("shift", shift, 0)
    source = sources.read(name, data_dir, cache_dir, download)
    train = _take_subset(source.train, subset, seed)
    test = _take_subset(source.test, test_subset, seed, "test_subset")
    if batch_size > len(train.labels):
        raise ValueError(
            f"batch_size must be at most the number of training examples, {len(train.labels)}. "
            f"Received: batch_size={batch_size}"
        )
    decode, image_shape = decoder(source, resize)
    if shift >= min(image_shape[:2]):
        raise ValueError(
            f"shift must be less than the images' side, {min(image_shape[:2])}. "
            f"Received: shift={shift}"
        )
    mean, std = statistics(train.images, decode, image_shape[-1])
    return ImageData(
        name=name,
        image_shape=image_shape,
        class_names=source.class_names,
        batch_size=batch_size,
        seed=seed,
        mean=mean,
        std=std,
        shift=shift,
        _splits={"train": train, "test": test},
        _decode=decode,
    )


def load_arrays(
    name: str,
    split: str = "train",
    subset: int | None = None,
    seed: int = 0,
    resize: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Examples as NumPy arrays, for kernels.

    Both splits are normalized by the statistics of the whole training split, so that arrays of
    different calls fit together.

    Args:
        name: as for `load`.
        split: "train" or "test".
        subset: number of examples, shuffled and balanced over the classes; None is all.
        seed: of the subset.
        resize: as for `load`.
        data_dir: as for `load`.
        cache_dir: as for `load`.

    Returns:
        (images float32 [n, h, w, c], labels int32 [n]).

    Raises:
        ValueError: as for `load`, or an unknown split.
        DatasetNotPreparedError: as for `load`.

    Example:
        >>> images, labels = mfcnn.data.load_arrays("digits", "train", subset=20)
        >>> images.shape, np.bincount(labels).tolist()
        ((20, 8, 8, 1), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    arguments.choice("split", split, ("train", "test"))
    data = load(name, 1, seed=seed, resize=resize, data_dir=data_dir, cache_dir=cache_dir)
    return data.arrays(split, subset)


def _take_subset(
    examples: sources.Examples, subset: int | None, seed: int, name: str = "subset"
) -> sources.Examples:
    """The first of a seeded shuffle that deals out the classes in turn."""
    if subset is None:
        return examples
    subset = arguments.integer(name, subset, 1)
    images, labels = examples
    if subset > len(labels):
        raise ValueError(
            f"{name} must be at most the {len(labels)} examples of the split. "
            f"Received: {name}={subset}"
        )
    # RandomState: its stream is frozen, that of numpy.random.Generator may change.
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = shuffled == label
        turn[of_class] = np.arange(of_class.sum())
    keep = order[np.argsort(turn, kind="stable")][:subset]
    return sources.Examples(images[keep], labels[keep])

"""The order of the batches, normalization, subsets and shards, on the embedded digits."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from mfcnn import data
from tests.tolerances import float32


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", batch_size=50, seed=3)


def take(dataset, count):
    return [tuple(np.asarray(part) for part in batch) for batch in dataset.take(count)]


def keys(images):
    """Something to recognize an image by; no two digits of scikit-learn's are equal."""
    return [image.tobytes() for image in np.asarray(images)]


def test_digits_have_the_documented_sizes(digits):
    assert (digits.train_size, digits.test_size, digits.classes) == (1437, 360, 10)
    assert digits.image_shape == (8, 8, 1)
    assert digits.steps_per_epoch == 28


def test_digits_split_every_example_once_and_evenly_over_the_classes():
    parts = [data.load_arrays("digits", split) for split in ("train", "test")]
    bunch = load_digits()
    mean, std = data.load("digits", 1).mean, data.load("digits", 1).std
    pixels = np.concatenate([images for images, _ in parts])[..., 0] * std + mean
    expected = bunch.images / 16
    assert sorted(np.rint(pixels * 16).astype(int).reshape(-1, 64).tolist()) == sorted(
        np.rint(expected * 16).astype(int).reshape(-1, 64).tolist()
    )
    test_share = np.bincount(parts[1][1]) / np.bincount(bunch.target)
    assert np.all(np.abs(test_share - 0.2) < 0.006)  # within one example of 180


def test_labels_stay_with_their_images():
    bunch = load_digits()
    stored = bunch.images.astype(np.int64)
    label_of = {image.tobytes(): label for image, label in zip(stored, bunch.target)}
    record = data.load("digits", 64, seed=1)
    for images, labels in take(record.train, 3):
        pixels = np.rint((images[..., 0] * record.std + record.mean) * 16).astype(np.int64)
        assert [label_of[pixel.tobytes()] for pixel in pixels] == labels.tolist()


def test_training_pixels_have_mean_zero_and_variance_one():
    images, _ = data.load_arrays("digits")
    assert images.dtype == np.float32
    # Float32 images: sums of 10^5 rounded pixels.
    assert abs(images.mean(dtype=np.float64)) < 1e-6
    assert abs(images.std(dtype=np.float64) - 1) < 1e-6


def test_statistics_are_those_of_the_subset_in_use():
    record = data.load("digits", 10, subset=37, seed=5)
    images, _ = record.arrays()
    assert len(images) == record.train_size == 37
    assert abs(images.mean(dtype=np.float64)) < 1e-6
    assert abs(images.std(dtype=np.float64) - 1) < 1e-6


def test_batches_have_static_shapes(digits):
    images, labels = digits.train.element_spec
    assert images.shape == (50, 8, 8, 1) and images.dtype == tf.float32
    assert labels.shape == (50,) and labels.dtype == tf.int32
    images, labels, weights = digits.test.element_spec
    assert images.shape == (50, 8, 8, 1) and weights.shape == (50,)
    assert digits.train.cardinality() == tf.data.INFINITE_CARDINALITY


def test_an_epoch_takes_no_example_twice_and_epochs_differ_in_order(digits):
    batches = take(digits.train, 2 * digits.steps_per_epoch)
    epochs = batches[: digits.steps_per_epoch], batches[digits.steps_per_epoch :]
    orders = [sum((keys(images) for images, _ in epoch), []) for epoch in epochs]
    for order in orders:
        assert len(set(order)) == 28 * 50
    assert orders[0] != orders[1]


def test_every_example_comes_when_batches_fill_the_epoch():
    record = data.load("digits", 3, seed=0)  # 1437 = 3 * 479
    order = sum((keys(images) for images, _ in take(record.train, 479)), [])
    assert sorted(order) == sorted(keys(record.arrays()[0]))


@pytest.mark.parametrize("start_step", [0, 1, 27, 28, 29, 100])
def test_a_run_resumes_at_any_step(digits, start_step):
    whole = take(digits.train, start_step + 3)[start_step:]
    resumed = take(digits.train_batches(start_step=start_step), 3)
    for (images, labels), (resumed_images, resumed_labels) in zip(whole, resumed):
        np.testing.assert_array_equal(images, resumed_images)
        np.testing.assert_array_equal(labels, resumed_labels)


def test_resuming_far_out_costs_nothing(digits):
    far = 10**9
    (first,) = take(digits.train_batches(start_step=far), 1)
    again = take(digits.train_batches(start_step=far - 2), 3)[2]
    np.testing.assert_array_equal(first[0], again[0])


def test_the_order_depends_on_the_seed_alone():
    def first(seed):
        return take(data.load("digits", 50, seed=seed).train, 1)[0][0]

    np.testing.assert_array_equal(first(0), first(0))
    assert not np.array_equal(first(0), first(1))
    first(-1), first(2**40)  # any int


@pytest.mark.parametrize("batch_size", [50, 360, 7, 1000])
def test_each_test_example_counts_once(digits, batch_size):
    batches = take(digits.test_batches(batch_size), 10**6)
    assert all(len(images) == batch_size for images, _, _ in batches)
    weights = np.concatenate([weights for _, _, weights in batches])
    assert weights.sum() == 360 and set(weights) <= {0.0, 1.0}
    images, labels = (np.concatenate(part)[weights > 0] for part in list(zip(*batches))[:2])
    expected_images, expected_labels = digits.arrays("test")
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("pipelines", [1, 2])
def test_pipelines_and_replicas_share_each_global_batch(digits, pipelines):
    replicas, steps = {1: 5, 2: 10}[pipelines], 30
    contexts = [tf.distribute.InputContext(pipelines, i, replicas) for i in range(pipelines)]
    count = steps * replicas // pipelines
    shards = [take(digits.train_batches(2, input_context), count) for input_context in contexts]
    whole = take(digits.train_batches(2), steps)
    for step, (images, labels) in enumerate(whole):
        # Pipeline by pipeline, replica by replica: the global batch in its order.
        mine = slice(step * replicas // pipelines, (step + 1) * replicas // pipelines)
        parts = list(itertools.chain(*(shard[mine] for shard in shards)))
        assert {len(part[0]) for part in parts} == {50 // replicas}
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)


def test_pipelines_share_the_test_examples(digits):
    shards = [
        take(digits.test_batches(48, tf.distribute.InputContext(2, i, 4)), 10**6) for i in (0, 1)
    ]
    assert len(shards[0]) == len(shards[1]) == 16
    assert {len(part[0]) for shard in shards for part in shard} == {12}
    assert sum(part[2].sum() for shard in shards for part in shard) == 360
    seen = [
        key for shard in shards for images, _, weights in shard for key in keys(images[weights > 0])
    ]
    assert sorted(seen) == sorted(keys(digits.arrays("test")[0]))


def test_a_mirrored_strategy_takes_the_batches(digits):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = strategy.distribute_datasets_from_function(
        lambda input_context: digits.train_batches(5, input_context)
    )
    images, _ = next(iter(dataset))
    np.testing.assert_array_equal(images, take(digits.train_batches(5), 1)[0][0])


def test_uneven_replicas_are_refused(digits):
    with pytest.raises(ValueError, match="multiple of the 3 replicas.*batch_size=50"):
        digits.train_batches(input_context=tf.distribute.InputContext(1, 0, 3))


def test_the_test_split_takes_a_balanced_subset_too():
    record = data.load("digits", 8, test_subset=30)
    _, labels = record.arrays("test")
    assert record.test_size == len(labels) == 30
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 3))


def test_subsets_are_balanced_and_nested():
    small, small_labels = data.load_arrays("digits", subset=25, seed=2)
    large, large_labels = data.load_arrays("digits", subset=104, seed=2)
    assert set(np.bincount(small_labels)) == {2, 3}
    assert set(np.bincount(large_labels)) == {10, 11}
    np.testing.assert_array_equal(small, large[:25])
    other, _ = data.load_arrays("digits", subset=25, seed=3)
    assert set(keys(other)) != set(keys(small))


def test_arrays_of_both_splits_share_their_normalization():
    train = data.load("digits", 1)
    test, _ = data.load_arrays("digits", "test", subset=60)
    pixels = (test * train.std + train.mean) * 16
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=float32.summed)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_resizing_gives_squares_of_that_size(size):
    record = data.load("digits", 8, resize=size, subset=40)
    assert record.image_shape == (size, size, 1)
    images, _ = record.arrays()
    assert images.shape == (40, size, size, 1)
    assert take(record.train, 1)[0][0].shape == (8, size, size, 1)
    assert abs(images.std(dtype=np.float64) - 1) < 1e-5


def test_halving_by_an_antialiased_filter_keeps_the_mean_of_a_linear_ramp():
    ramp = np.arange(16, dtype=np.float32)[None, :, None, None] + np.zeros((1, 16, 16, 1))
    from mfcnn.data import images, sources

    examples = sources.Examples(ramp.astype(np.uint8), np.zeros(1, np.int32))
    decode, shape = images.decoder(sources.Source(examples, examples, ("0",), 15.0), 8)
    inner = np.asarray(decode(tf.constant(examples.images)))[0, 1:-1, 1:-1, 0] * 15
    assert shape == (8, 8, 1)
    # Pixel i of the half-size image is centred between pixels 2 i and 2 i + 1.
    np.testing.assert_allclose(
        inner, (2 * np.arange(8) + 0.5)[1:-1, None] + np.zeros(6), rtol=float32.summed
    )


def test_a_constant_channel_is_centred():
    from mfcnn.data import images

    mean, std = images.statistics(np.full((7, 2, 2, 1), 0.3), lambda x: x, 1)
    np.testing.assert_allclose(mean, 0.3)
    assert std == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "mnits"}, "'digits', 'mnist', .*, 'imagenet_snakes'.*'mnits'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1.*0"),
        ({"batch_size": 2000}, "batch_size must be at most.*1437.*2000"),
        ({"batch_size": 20, "subset": 10}, "batch_size must be at most.*10.*20"),
        ({"subset": 0}, "subset must be an integer of at least 1"),
        ({"subset": 1438}, "subset must be at most the 1437.*1438"),
        ({"resize": 0}, "resize must be an integer of at least 1"),
        ({"shift": -1}, "shift must be an integer of at least 0"),
        ({"shift": 8}, "shift must be less than the images' side, 8"),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        data.load(**{"name": "digits", "batch_size": 8, **arguments})


def test_moved_images_are_the_images_moved_by_every_number_of_pixels_once_an_epoch():
    record, still = (data.load("digits", 50, seed=3, subset=100, shift=s) for s in (2, 0))
    black = -still.mean / still.std
    found = np.zeros([5, 5], int)
    for epoch in range(8):
        moved, images = (take(each.train_batches(2 * epoch), 2) for each in (record, still))
        for (image, label), (plain, plain_label) in zip(_examples(moved), _examples(images)):
            assert label == plain_label
            padded = np.pad(plain[..., 0], 2, constant_values=black.item())
            windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8))
            equal = np.all(np.isclose(windows, image[..., 0], atol=1e-6), axis=(-2, -1))
            assert equal.any()
            found += equal
    # 800 draws of 25 moves (some windows of an image are equal): none is rare, none is usual.
    assert found.min() > 10 and found.max() < 80
    assert [len(np.unique(record.train_order(2, start))) for start in (0, 6)] == [100, 100]


def _examples(batches):
    return [example for images, labels in batches for example in zip(images, labels)]


def test_moves_do_not_depend_on_where_the_run_began_nor_on_the_number_of_workers():
    record = data.load("digits", 8, seed=1, subset=40, shift=3)
    whole = take(record.train, 9)
    for (images, labels), (again, labels_again) in zip(whole[4:], take(record.train_batches(4), 5)):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)
    halves = [
        take(record.train_batches(0, tf.distribute.InputContext(2, index, 2)), 9)
        for index in range(2)
    ]
    for (images, _), (first, _), (second, _) in zip(whole, *halves):
        np.testing.assert_array_equal(images, np.concatenate([first, second]))


def test_moves_are_drawn_by_other_numbers_than_the_order(monkeypatch):
    seeds = []
    for name in ("stateless_uniform", "experimental.stateless_shuffle"):
        home, _, name = name.rpartition(".")
        home = getattr(tf.random, home) if home else tf.random
        original = getattr(home, name)

        def listening(*arguments, original=original, **options):
            seeds.append([one for one in arguments if tf.is_tensor(one) and one.shape == [2]][-1])
            return original(*arguments, **options)

        monkeypatch.setattr(home, name, listening)
    next(iter(data.load("digits", 8, seed=1, subset=40, shift=3).train))
    assert len(seeds) >= 2 and seeds[0] is not seeds[1]


def test_test_images_and_arrays_are_not_moved():
    record, still = (data.load("digits", 8, subset=40, shift=s) for s in (3, 0))
    for name in ("train", "test"):
        np.testing.assert_array_equal(record.arrays(name)[0], still.arrays(name)[0])
    np.testing.assert_array_equal(next(iter(record.test))[0], next(iter(still.test))[0])


def test_bad_splits_and_steps_are_refused(digits):
    with pytest.raises(ValueError, match="'train', 'test'.*'validation'"):
        digits.arrays("validation")
    with pytest.raises(ValueError, match="start_step must be an integer of at least 0"):
        digits.train_batches(start_step=-1)

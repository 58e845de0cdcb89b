r"""`mfcnn.layers.Repeat`: the first step, memory against the prediction, a deep transformer.

    python -m benchmarks.repeat --depths=10,10000
    python -m benchmarks.repeat --train_depth=1000 --train_steps=200

The first form prints for each block and depth CPU seconds of the first training step and of a later
one, and the peak memory of the steps above that of the process before, with the prediction of
`Repeat.memory`; each measurement is a process of its own. The second trains a pre-norm transformer
of that many blocks on scikit-learn's digits, whose rows are the tokens, and prints the loss and the
accuracy on digits that were not trained on.
"""

import json
import subprocess
import sys
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("depths", ["10", "1000", "10000"], "Depths.")
flags.DEFINE_list("blocks", ["dense", "convolution", "transformer", "gated", "masked"], "Blocks.")
flags.DEFINE_integer("batch", 16, "Examples in a step.")
flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles the step.")
flags.DEFINE_integer("train_depth", None, "Trains a transformer of this many blocks instead.")
flags.DEFINE_integer("train_steps", 200, "Steps of that training.")
flags.DEFINE_float("learning_rate", 3e-4, "Adam's rate of that training.")
flags.DEFINE_string("child", None, "Internal: the block and depth that this process measures.")


def make_block(kind, depth=1):
    """A block and the shape of an input, or shapes; the last branch shrinks with the depth."""
    import keras

    layers = keras.layers
    if kind == "dense":
        return layers.Dense(64, "tanh"), (64,)
    if kind == "convolution":
        inputs = keras.Input((8, 8, 16))
        x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
        return keras.Model(inputs, layers.Add()([inputs, x])), (8, 8, 16)
    if kind == "gated":
        inputs = [keras.Input((64,)), keras.Input((64,))]
        gate, value = layers.Dense(64, "sigmoid")(inputs[0]), layers.Dense(64, "tanh")(inputs[1])
        outputs = [layers.Multiply()([gate, value]), layers.Add()([inputs[0], value])]
        return keras.Model(inputs, outputs), [(64,), (64,)]
    width, tokens = 16, 8
    if kind == "masked":
        inputs = keras.Input((tokens, width))
        x = layers.Dense(width, "tanh")(layers.Dropout(0.1)(inputs))
        x = layers.MultiHeadAttention(2, width // 2)(x, x)
        return keras.Model(inputs, layers.Add()([inputs, x])), (tokens, width)
    last = {"kernel_initializer": keras.initializers.VarianceScaling(1 / depth)}
    inputs = keras.Input((tokens, width))
    x = layers.LayerNormalization()(inputs)
    attention = layers.MultiHeadAttention(2, width // 2, kernel_initializer="glorot_uniform")
    x = layers.Add()([inputs, layers.Dense(width, **last)(attention(x, x))])
    y = layers.Dense(2 * width, "gelu")(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Add()([x, layers.Dense(width, **last)(y)])), (tokens, width)


def make_batch(kind, shape):
    """Normal numbers for a block; of each masked example the last two tokens do not count."""
    import keras
    import tensorflow as tf

    if isinstance(shape, list):
        return [tf.random.stateless_normal([FLAGS.batch, *each], [0, 0]) for each in shape]
    x = tf.random.stateless_normal([FLAGS.batch, *shape], [0, 0])
    if kind == "masked":
        counts = tf.range(shape[0]) < shape[0] - 2
        x = keras.layers.Masking()(tf.where(counts[:, None], x, 0.0))
    return x


def measure(kind, depth):
    """One measurement in this process, as a dict."""
    from benchmarks import deep_stack_child as child

    tf = child.tensorflow(1)
    import mfcnn

    def step_of(depth):
        block, shape = make_block(kind, depth)
        layer = mfcnn.layers.Repeat(block, depth)
        x = make_batch(kind, shape)
        layer.build([y.shape for y in x] if isinstance(x, list) else x.shape)
        variables = [v.value for v in layer.trainable_variables]

        def step():
            with tf.GradientTape() as tape:
                outputs = tf.nest.flatten(layer(x, training=True))
                loss = tf.add_n([tf.reduce_sum(tf.square(y)) for y in outputs])
            for variable, gradient in zip(variables, tape.gradient(loss, variables)):
                variable.assign_sub(1e-9 * gradient)

        compiled = tf.function(step, autograph=False, jit_compile=FLAGS.jit_compile or None)
        return compiled, layer.memory(x, slots=0).total

    step_of(2)[0]()  # what libraries allocate once is no part of the deep stack's memory
    base = child.resident_memory()
    step, predicted = step_of(depth)
    child.forget_peak()
    result = child.measure(step, 2)
    return {**result, "predicted": predicted, "taken": result["peak"] - base}


def train(depth):
    """Trains the transformer on digits and prints how it goes."""
    import keras
    import numpy as np
    from sklearn import datasets

    import mfcnn

    keras.utils.set_random_seed(0)
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.images[order].astype("float32") / 16, digits.target[order]
    block, (tokens, width) = make_block("transformer", depth)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((tokens, 8)),
            layers.Dense(width),
            mfcnn.layers.Repeat(block, depth),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(FLAGS.learning_rate)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=FLAGS.jit_compile)
    held_out = images[1500:], labels[1500:]
    print(f"{depth} blocks, {model.count_params():,} parameters", flush=True)
    rng, start = np.random.default_rng(1), time.process_time()
    for step in range(FLAGS.train_steps):
        batch = rng.integers(0, 1500, FLAGS.batch)
        values = model.train_on_batch(images[batch], labels[batch], return_dict=True)
        if step == 0:
            print(f"first step {time.process_time() - start:.1f} CPU s", flush=True)
        if (step + 1) % max(FLAGS.train_steps // 4, 1) == 0:
            test = model.evaluate(*held_out, batch_size=FLAGS.batch, verbose=0, return_dict=True)
            seconds = time.process_time() - start
            print(
                f"step {step + 1}: loss {values['loss']:.3f} (running mean), held out: loss "
                f"{test['loss']:.3f}, accuracy {test['accuracy']:.3f}; {seconds:.0f} CPU s",
                flush=True,
            )
            model.reset_metrics()


def main(argv):
    """Measures, or trains."""
    if FLAGS.child:
        kind, depth = FLAGS.child.split(",")
        print(json.dumps(measure(kind, int(depth))))
        return
    if FLAGS.train_depth:
        train(FLAGS.train_depth)
        return
    print(f"{'block':12}{'depth':>7}{'first s':>9}{'step s':>9}{'MB':>8}  predicted")
    for kind in FLAGS.blocks:
        for depth in FLAGS.depths:
            command = [sys.executable, "-m", "benchmarks.repeat", f"--child={kind},{depth}"]
            command += [f"--batch={FLAGS.batch}", f"--jit_compile={FLAGS.jit_compile}"]
            child = subprocess.run(command, capture_output=True, text=True)
            if child.returncode:
                print(f"{kind:12}{depth:>7}  {child.stderr.strip().splitlines()[-1][:100]}")
                continue
            r = json.loads(child.stdout.strip().splitlines()[-1])
            print(
                f"{kind:12}{depth:>7}{r['first']:9.1f}{r['step']:9.3f}{r['taken'] / 1e6:8.0f}"
                f"  {r['predicted'] / 1e6:.0f} MB above the start",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)

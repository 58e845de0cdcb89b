r"""The table behind the form of the convolution: which form is fastest for which size.

    python -m benchmarks.convolution_forms --channels=8,16,32,64,128 --positions=64,512,2048
    python -m benchmarks.convolution_forms --side=2 --channels=16,64,128 --positions=64,128,256,512

Times forward pass, backward pass and update of a `DeepConvolution` in its forms on this device: the
library's convolution and the matrix product uncompiled, the matrix product under XLA, on images of
up to 4x4 positions one matrix between all of them too (with --all_forms also the library's under
XLA, which is many times slower on a CPU). Prints CPU microseconds per layer and image, the fastest,
and what `form="auto"` and the training binary's default of jit_compile lose to it.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from absl import app, flags

import mfcnn

FLAGS = flags.FLAGS
flags.DEFINE_list("channels", ["8", "16", "32", "64", "128"], "Channels.")
flags.DEFINE_list(
    "positions",
    ["64", "512", "2048"],
    "Positions of the whole batch (images x height x width), multiples of the side's square.",
)
flags.DEFINE_integer("side", 8, "Height and width of the images.", lower_bound=1)
flags.DEFINE_integer("depth", 100, "Layers.")
flags.DEFINE_integer("repeats", 3, "Steps; the fastest counts.")
flags.DEFINE_integer("threads", 1, "Threads.")
flags.DEFINE_boolean("all_forms", False, "Also the library's convolution under XLA.")


def step_time(depth, channels, batch, form, jit_compile, repeats):
    """CPU seconds of one training step after the first."""
    deep = mfcnn.layers.DeepConvolution(
        depth,
        channels,
        kernel_initializer=mfcnn.initializers.ConvolutionDeltaOrthogonal(seed=0),
        form=form,
    )
    x = tf.random.stateless_normal([batch, FLAGS.side, FLAGS.side, channels], [0, 0])
    deep.build(x.shape)
    variables = deep.stacked_variables

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(deep(x)))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(1e-6 * gradient)

    step, times = tf.function(step, autograph=False, jit_compile=jit_compile or None), []
    for _ in range(repeats + 1):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times[1:])


def main(argv):
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    variants = [("library", False), ("matmul", False), ("matmul", True)]
    if FLAGS.side <= 4:
        variants.append(("dense", True))
    if FLAGS.all_forms:
        variants.append(("library", True))
    names = [form + (" XLA" if jit else "") for form, jit in variants]
    print(f"{'channels':>8}{'positions':>10}" + "".join(f"{n:>14}" for n in names) + "  fastest")
    for channels in map(int, FLAGS.channels):
        for positions in map(int, FLAGS.positions):
            batch = positions // FLAGS.side**2
            times = [
                step_time(FLAGS.depth, channels, batch, form, jit, FLAGS.repeats)
                for form, jit in variants
            ]
            scale = 1e6 / FLAGS.depth / batch
            compiled = mfcnn.layers.xla_is_faster(channels, positions)
            taken = step_time(FLAGS.depth, channels, batch, "auto", compiled, FLAGS.repeats)
            print(
                f"{channels:8}{positions:10}"
                + "".join(f"{scale * t:14.1f}" for t in times)
                + f"  {names[times.index(min(times))]}; auto loses {taken / min(times):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)

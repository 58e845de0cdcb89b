"""One measurement of one implementation in a process of its own; prints one line of JSON.

    python deep_stack_child.py IMPLEMENTATION DEPTH CHANNELS BATCH SIDE STEPS THREADS

Every implementation takes the same training step: `depth` circular 3x3 convolutions with bias and
tanh on float32 images, the loss a sum of squares, its gradients, plain SGD. Times are CPU seconds
of the process, so that they count all threads and not the waits of a busy machine.
"""

import json
import math
import os
import resource
import sys
import time

KERNEL = 3


def peak_memory():
    """Largest resident set of this process since the last `forget_peak`, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak():
    """Lets `peak_memory` start anew from the present resident set."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def resident_memory():
    """Resident set of this process now, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(step, steps):
    """CPU seconds of the first call and the least of the later ones, and peak memory."""
    first = time.process_time()
    step()
    first, times = time.process_time() - first, []
    for _ in range(steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    least = min(times)
    return {"first": first, "compile": first - least, "step": least, "peak": peak_memory()}


def tensorflow(threads):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def mfcnn_step(depth, channels, batch, side, threads, jit_compile, fused):
    tf = tensorflow(threads)
    x = tf.random.stateless_normal([batch, side, side, channels], [0, 0])
    # A small stack first: what libraries allocate once is no part of the deep stack's memory.
    stack_step(4, channels, x, jit_compile, fused)[0]()
    base = resident_memory()
    step, built, predicted = stack_step(depth, channels, x, jit_compile, fused)
    return step, {"base": base, "built": built, "predicted": predicted}


def stack_step(depth, channels, x, jit_compile, fused):
    """The step of a new stack, peak memory while it was built, and the prediction in bytes."""
    import tensorflow as tf

    import mfcnn

    deep = mfcnn.layers.DeepConvolution(
        depth,
        channels,
        kernel_initializer=mfcnn.initializers.ConvolutionDeltaOrthogonal(seed=0),
    )
    deep.build(x.shape)
    variables = deep.stacked_variables
    built = peak_memory()
    forget_peak()  # drawing the kernels is no part of a step

    def plain():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(deep(x)))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(1e-6 * gradient)

    def update(layer, gradients):
        layer = tf.convert_to_tensor(layer)
        for variable, gradient in zip(variables, gradients):
            variable.scatter_sub(tf.IndexedSlices(1e-6 * gradient[None], layer[None]))

    def updating():
        loop = deep.loop_for(x)
        output, kept = loop.forward((x,), variables)
        loop.backward((x,), variables, (2 * output[0],), kept, update)

    function = updating if fused else plain
    step = tf.function(function, autograph=False, jit_compile=jit_compile or None)
    memory = mfcnn.layers.stack_memory(
        depth,
        (KERNEL * KERNEL * channels + 1) * channels,
        math.prod(x.shape),
        slots=0,
        gradient_copies=0 if fused else 1 if jit_compile else 2,
    )
    return step, built, memory.total


def floor_step(depth, channels, batch, side, threads, form, jit_compile):
    """Twenty different layers written one after another: no loop, no recomputation."""
    tf = tensorflow(threads)
    from mfcnn.layers._convolution import convolve

    count = min(depth, 20)
    x = tf.random.stateless_normal([batch, side, side, channels], [0, 0])
    scale = 1 / (KERNEL * channels**0.5)
    kernels = [
        tf.Variable(
            scale * tf.random.stateless_normal([KERNEL, KERNEL, channels, channels], [1, i])
        )
        for i in range(count)
    ]
    biases = [tf.Variable(tf.zeros([channels])) for _ in range(count)]

    def step():
        with tf.GradientTape() as tape:
            y = x
            for kernel, bias in zip(kernels, biases):
                y = tf.tanh(convolve(y, tf.convert_to_tensor(kernel), "circular", form) + bias)
            loss = tf.reduce_sum(tf.square(y))
        variables = kernels + biases
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(1e-6 * gradient)

    function = tf.function(step, autograph=False, jit_compile=jit_compile or None)
    return function, {"layers": count}


def keras_step(depth, channels, batch, side, threads):
    tf = tensorflow(threads)
    import keras

    import mfcnn

    model = keras.Sequential([keras.Input((side, side, channels), batch_size=batch)])
    for _ in range(depth):
        model.add(mfcnn.layers.PeriodicConvolution(channels, KERNEL, activation="tanh"))
    x = tf.random.stateless_normal([batch, side, side, channels], [0, 0])
    variables = [v.value for v in model.trainable_variables]

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x)))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(1e-6 * gradient)

    return step, {}


def torch_step(depth, channels, batch, side, threads, checkpoint):
    import torch
    from torch.utils.checkpoint import checkpoint_sequential

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [
            torch.nn.Conv2d(channels, channels, KERNEL, padding=1, padding_mode="circular"),
            torch.nn.Tanh(),
        ]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(batch, channels, side, side, requires_grad=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step():
        optimizer.zero_grad()
        if checkpoint:
            y = checkpoint_sequential(model, max(int(depth**0.5), 1), x, use_reentrant=False)
        else:
            y = model(x)
        y.square().sum().backward()
        optimizer.step()

    return step, {}


def jax_step(depth, channels, batch, side, threads, form):
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    key = jax.random.PRNGKey(0)
    scale = 1 / (KERNEL * channels**0.5)
    shape = (depth, KERNEL, KERNEL, channels, channels)
    state = [scale * jax.random.normal(key, shape), jnp.zeros((depth, channels))]
    x = jax.random.normal(key, (batch, side, side, channels))

    @jax.checkpoint
    def layer(h, parameters):
        kernel, bias = parameters
        padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        if form == "matmul":
            shifts = [(u, v) for u in range(KERNEL) for v in range(KERNEL)]
            windows = [padded[:, u : u + side, v : v + side] for u, v in shifts]
            rows = jnp.concatenate(windows, -1).reshape(-1, KERNEL * KERNEL * channels)
            z = (rows @ kernel.reshape(-1, channels)).reshape(h.shape)
        else:
            z = jax.lax.conv_general_dilated(
                padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return jnp.tanh(z + bias), None

    def loss(parameters):
        return jnp.sum(jnp.square(jax.lax.scan(layer, x, parameters)[0]))

    @jax.jit
    def update(parameters):
        gradients = jax.grad(lambda p: loss(tuple(p)))(parameters)
        return [p - 1e-6 * g for p, g in zip(parameters, gradients)]

    def step():
        state[:] = update(state)
        state[0].block_until_ready()

    return step, {}


IMPLEMENTATIONS = {
    "mfcnn": lambda *a: mfcnn_step(*a, jit_compile=False, fused=False),
    "mfcnn_jit": lambda *a: mfcnn_step(*a, jit_compile=True, fused=False),
    "mfcnn_fused": lambda *a: mfcnn_step(*a, jit_compile=False, fused=True),
    "floor_library": lambda *a: floor_step(*a, form="library", jit_compile=False),
    "floor_matmul_jit": lambda *a: floor_step(*a, form="matmul", jit_compile=True),
    "floor_dense_jit": lambda *a: floor_step(*a, form="dense", jit_compile=True),
    "keras": keras_step,
    "torch": lambda *a: torch_step(*a, checkpoint=False),
    "torch_checkpoint": lambda *a: torch_step(*a, checkpoint=True),
    "jax": lambda *a: jax_step(*a, form="library"),
    "jax_matmul": lambda *a: jax_step(*a, form="matmul"),
}


def main():
    implementation = sys.argv[1]
    depth, channels, batch, side, steps, threads = map(int, sys.argv[2:])
    step, facts = IMPLEMENTATIONS[implementation](depth, channels, batch, side, threads)
    result = measure(step, steps)
    print(json.dumps({**facts, **result}))


if __name__ == "__main__":
    main()

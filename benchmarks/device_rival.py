"""The network of Figure 1 in JAX or PyTorch on the accelerator that is there; one line of JSON.

    python device_rival.py jax|torch DEPTH CHANNELS BATCH STEPS

A stem of three convolutions of strides 1, 2, 2 on 28x28 images, `depth` circular convolutions with
tanh, pooling, a dense readout; cross-entropy, SGD with momentum 0.9, float32, as `tpu.execute`
trains it. Each keeps a checkpoint at every sqrt(depth)th layer.
"""

import json
import math
import statistics
import sys
import time

RATE, MOMENTUM = 1e-3, 0.9


def jax_step(depth, channels, batch):
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.PRNGKey(0), 8))
    segments = math.isqrt(depth)
    while depth % segments:
        segments -= 1

    def kernel(c_in, *lead):
        scale = 1 / math.sqrt(9 * c_in)
        return scale * jax.random.normal(next(keys), (*lead, 3, 3, c_in, channels))

    parameters = {
        "stem": [kernel(1), kernel(channels), kernel(channels)],
        "deep": kernel(channels, segments, depth // segments),
        "bias": jnp.zeros([segments, depth // segments, channels]),
        "readout": jax.random.normal(next(keys), (channels, 10)) / math.sqrt(channels),
    }
    velocity = jax.tree.map(jnp.zeros_like, parameters)
    images = jax.random.normal(next(keys), (batch, 28, 28, 1))
    labels = jnp.arange(batch) % 10
    layout = ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel, stride=1, padding="SAME"):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=layout
        )

    def layer(x, own):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        return jnp.tanh(convolve(padded, own[0], padding="VALID") + own[1]), None

    @jax.checkpoint
    def segment(x, own):
        return jax.lax.scan(layer, x, own)[0], None

    def loss(parameters):
        x = images
        for kernel, stride in zip(parameters["stem"], (1, 2, 2)):
            x = jnp.tanh(convolve(x, kernel, stride))
        x, _ = jax.lax.scan(segment, x, (parameters["deep"], parameters["bias"]))
        logits = jnp.mean(x, axis=(1, 2)) @ parameters["readout"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(batch), labels])

    def update(parameters, velocity):
        gradient = jax.grad(loss)(parameters)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - RATE * g, velocity, gradient)
        return jax.tree.map(jnp.add, parameters, velocity), velocity

    update = jax.jit(update, donate_argnums=(0, 1))
    state = [parameters, velocity]

    def step():
        state[:] = update(*state)
        jax.block_until_ready(state)

    return step, jax.devices()[0].device_kind


def torch_step(depth, channels, batch):
    import torch
    from torch.utils.checkpoint import checkpoint_sequential

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # XLA's default for float32 on such a device; PyTorch's is the slower one.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True

    def convolution(c_in, stride, mode):
        return torch.nn.Conv2d(c_in, channels, 3, stride, padding=1, padding_mode=mode)

    layers = []
    for c_in, stride in ((1, 1), (channels, 2), (channels, 2)):
        layers += [convolution(c_in, stride, "zeros"), torch.nn.Tanh()]
    for _ in range(depth):
        layers += [convolution(channels, 1, "circular"), torch.nn.Tanh()]
    deep = torch.nn.Sequential(*layers).to(device)
    readout = torch.nn.Linear(channels, 10).to(device)
    images = torch.randn(batch, 1, 28, 28, device=device, requires_grad=True)
    labels = torch.arange(batch, device=device) % 10
    variables = [*deep.parameters(), *readout.parameters()]
    optimizer = torch.optim.SGD(variables, lr=RATE, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        x = checkpoint_sequential(deep, max(math.isqrt(depth), 1), images, use_reentrant=False)
        torch.nn.functional.cross_entropy(readout(x.mean((2, 3))), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step, torch.cuda.get_device_name() if device == "cuda" else "cpu"


def main():
    depth, channels, batch, steps = map(int, sys.argv[2:])
    step, device = {"jax": jax_step, "torch": torch_step}[sys.argv[1]](depth, channels, batch)
    times = []
    for _ in range(steps + 2):  # two to compile and to choose kernels
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"device": device, "seconds_a_step": statistics.median(times[2:])}))


if __name__ == "__main__":
    main()

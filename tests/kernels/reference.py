"""Plain numpy recursions on dense kernels of all pairs of positions, one step a line."""

import numpy as np


def erf_maps(q1, q2, q12):
    size = np.sqrt((1 + 2 * q1) * (1 + 2 * q2))
    value = 2 / np.pi * np.arcsin(np.clip(2 * q12 / size, -1, 1))
    return value, 4 / np.pi / np.sqrt((1 + 2 * q1) * (1 + 2 * q2) - 4 * q12**2)


def relu_maps(q1, q2, q12):
    size = np.sqrt(q1 * q2)
    angle = np.arccos(np.clip(q12 / size, -1, 1))
    value = size / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return value, (np.pi - angle) / (2 * np.pi)


MAPS = {"erf": erf_maps, "relu": relu_maps}


def fully_connected(x, depth, activation, weight_variance, bias_variance):
    nngp = weight_variance * x @ x.T / x.shape[1] + bias_variance
    ntk = nngp
    for _ in range(depth):
        q = np.diag(nngp)
        value, slope = MAPS[activation](q[:, None], q[None], nngp)
        nngp = weight_variance * value + bias_variance
        ntk = nngp + weight_variance * slope * ntk
    return nngp, ntk


def convolutional(x, depth, activation, weight_variance, bias_variance, profile, padding, readout):
    """Images [n, h, w, c]; odd taps; kernels [n, n, h, w, h, w] throughout."""
    n, height, width, channels = x.shape

    def average(kernel):
        margins = [(t // 2, t // 2) if padding != "valid" else (0, 0) for t in profile.shape] * 2
        mode = "wrap" if padding == "circular" else "constant"
        padded = np.pad(kernel, [(0, 0)] * 2 + margins, mode=mode)
        h, w = (padded.shape[2 + a] - profile.shape[a] + 1 for a in range(2))
        return sum(
            profile[i, j] * padded[:, :, i : i + h, j : j + w, i : i + h, j : j + w]
            for i in range(profile.shape[0])
            for j in range(profile.shape[1])
        )

    def read(kernel):
        if readout == "pool":
            return kernel.mean((2, 3, 4, 5))
        return np.einsum("abhwhw->ab", kernel) / (kernel.shape[2] * kernel.shape[3])

    kernel = np.einsum("ahwc,bijc->abhwij", x, x) / channels
    nngp = weight_variance * average(kernel) + bias_variance
    ntk = nngp
    for layer in range(depth):
        q = np.einsum("aahwhw->ahw", nngp)
        value, slope = MAPS[activation](q[:, None, :, :, None, None], q[None, :, None, None], nngp)
        affine = average if layer < depth - 1 else read
        nngp = weight_variance * affine(value) + bias_variance
        ntk = nngp + weight_variance * affine(slope * ntk)
    return nngp, ntk


def diagonal(q, depth, activation, weight_variance, bias_variance):
    """The kernels of a fully connected network at (x, x), by the scalar recursion at c = 1."""
    p = q
    for _ in range(depth):
        if activation == "relu":
            value, slope = q / 2, 0.5
        else:
            value = 2 / np.pi * np.arctan2(2 * q, np.sqrt(1 + 4 * q))
            slope = 4 / np.pi / np.sqrt(1 + 4 * q)
        q = weight_variance * value + bias_variance
        p = q + weight_variance * slope * p
    return q, p

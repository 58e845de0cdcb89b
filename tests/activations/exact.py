"""Dual maps in mpmath, as exact as its precision: what closed forms are compared with.

`maps(name)` gives (q1, q2, q12) -> (E[phi(u) phi(v)], E[phi'(u) phi'(v)]) of numbers of mpmath.
A formula is taken with covariances, as the papers print it; 1e-24 of a gap needs the digits that
the caller sets (`mpmath.workdps`), not care. Piecewise polynomials have two ways: `by_condition`,
E[phi(u) E[phi(v) | u]], which knows nothing of Price's theorem and takes seconds, and the quick
one, by that theorem.
"""

import functools

import mpmath
from mpmath import mpf

__all__ = ["KNOWN", "PIECES", "by_condition", "maps"]

# Kinks, and coefficients of the polynomials between them.
PIECES = {
    "hard_tanh": ((-1, 1), ((-1,), (0, 1), (1,))),
    "hard_sigmoid": ((-3, 3), ((0,), (mpf(1) / 2, mpf(1) / 6), (1,))),
    "relu6": ((0, 6), ((0,), (0, 1), (6,))),
    "relu_squared": ((0,), ((0,), (0, 0, 1))),
    "hard_swish": ((-3, 3), ((0,), (0, mpf(1) / 2, mpf(1) / 6), (0, 1))),
    "soft_shrink": ((-0.5, 0.5), ((0.5, 1), (0,), (-0.5, 1))),
    "sparse_plus": ((-1, 1), ((0,), (0.25, 0.5, 0.25), (0, 1))),
    "sparse_sigmoid": ((-1, 1), ((0,), (0.5, 0.5), (1,))),
}


def maps(name):
    """The maps of a form."""
    if name in _SLOPES:
        return functools.partial(_arc_cosine, *map(mpf, _SLOPES[name]))
    return _CLOSED[name] if name in _CLOSED else functools.partial(_by_angle, name)


_SLOPES = {
    "linear": (1, 1),
    "relu": (0, 1),
    "leaky_relu": ("0.2", 1),
    "abs": (-1, 1),
    "abrelu": ("-0.5", 1),
}


def _arc_cosine(below, above, q1, q2, q12):
    below, above = (mpf(float(a)) for a in (below, above))  # the floats that the form has
    size = mpmath.sqrt(q1 * q2)
    angle = mpmath.acos(min(q12 / size, mpf(1)))
    odd, even = ((above + below) / 2) ** 2, ((above - below) / 2) ** 2
    bent = 2 / mpmath.pi * (mpmath.sin(angle) + (mpmath.pi / 2 - angle) * mpmath.cos(angle))
    return odd * q12 + even * size * bent, odd + even * (1 - 2 * angle / mpmath.pi)


def _erf(q1, q2, q12):
    size = (1 + 2 * q1) * (1 + 2 * q2)
    value = 2 / mpmath.pi * mpmath.asin(2 * q12 / mpmath.sqrt(size))
    return value, 4 / mpmath.pi / mpmath.sqrt(size - 4 * q12**2)


def _sinusoid(q1, q2, q12):
    """E[sin sin] and E[cos cos]."""
    minus, plus = (mpmath.exp(-(q1 + q2) / 2 + sign * q12) / 2 for sign in (1, -1))
    return minus - plus, minus + plus


def _exp(q1, q2, q12):
    value = mpmath.exp((q1 + q2) / 2 + q12)
    return value, value


def _gaussian(q1, q2, q12):
    determinant = (1 + 2 * q1) * (1 + 2 * q2) - 4 * q12**2
    return 1 / mpmath.sqrt(determinant), 4 * q12 / determinant ** (mpf(3) / 2)


def _gelu(q1, q2, q12):
    """Of x Phi(x): the integral over q12 of E[phi' phi'], from E[Phi Phi] and Stein's lemma."""
    size = (1 + q1) * (1 + q2)
    determinant = size - q12**2
    orthant = mpf(1) / 4 + mpmath.asin(q12 / mpmath.sqrt(size)) / (2 * mpmath.pi)
    density = 1 / (2 * mpmath.pi * mpmath.sqrt(determinant))
    # u and v under the Gaussian weight exp(-(u^2 + v^2) / 2) have the covariance C (1 + C)^-1.
    value = q12 * orthant + density * (q1 * q2 + q12**2 * (1 - q1 * q2) / size)
    curvature = (1 - q1 * q2) / size
    form = q1 * q2 + curvature * q12**2
    return value, orthant + density * q12 * (1 + 2 * curvature + form / determinant)


def _sign(q1, q2, q12):
    angle = mpmath.acos(min(q12 / mpmath.sqrt(q1 * q2), mpf(1)))
    return 1 - 2 * angle / mpmath.pi, mpf(0)


_CLOSED = {
    "erf": _erf,
    "sin": _sinusoid,
    "cos": lambda *q: _sinusoid(*q)[::-1],
    "exp": _exp,
    "gaussian": _gaussian,
    "gelu": _gelu,
    "sign": _sign,
}


KNOWN = {*_SLOPES, *_CLOSED, *PIECES}


def _moments(polynomial, mean, deviation, low, high):
    """E[p(v); low < v < high] for v ~ N(mean, deviation^2)."""
    a, b = ((edge - mean) / deviation for edge in (low, high))
    masses = [mpmath.erfc(a / mpmath.sqrt(2)) / 2 - mpmath.erfc(b / mpmath.sqrt(2)) / 2]
    ends = [mpmath.npdf(z) if mpmath.isfinite(z) else mpf(0) for z in (a, b)]
    powers = [
        ends[0] * (a if mpmath.isfinite(a) else 0),
        ends[1] * (b if mpmath.isfinite(b) else 0),
    ]
    masses += [ends[0] - ends[1], masses[0] + powers[0] - powers[1]]
    expanded = [mpf(0)] * 3  # in z = (v - mean) / deviation
    for k, coefficient in enumerate(polynomial):
        for j in range(k + 1):
            expanded[j] += coefficient * mpmath.binomial(k, j) * mean ** (k - j) * deviation**j
    return sum(c * m for c, m in zip(expanded, masses))


def _expectation(kinks, polynomials, mean, deviation):
    """E[p(v)] of a piecewise polynomial."""
    ends = [-mpmath.inf, *map(mpf, kinks), mpmath.inf]
    pieces = zip(polynomials, ends, ends[1:])
    return sum(_moments(p, mean, deviation, *edges) for p, *edges in pieces if any(p))


def by_condition(name, q1, q2, q12):
    """E[f(u) E[f(v) | u]] for f = phi and phi', one integral with ends wherever f bends."""
    kinks, polynomials = PIECES[name]
    root1, deviation = mpmath.sqrt(q1), mpmath.sqrt(q2 - q12**2 / q1)
    results = []
    for pieces in (polynomials, _derivatives(polynomials)):

        def integrand(z, pieces=pieces):
            u = root1 * z
            value = mpmath.polyval(list(pieces[sum(u > k for k in kinks)])[::-1], u)
            if not value:
                return mpf(0)
            mean = q12 / root1 * z
            return value * _expectation(kinks, pieces, mean, deviation) * mpmath.npdf(z)

        reach = mpmath.sqrt(2 * mpmath.log(10) * mpmath.mp.dps)
        width = 2 * reach * deviation * root1 / q12
        ends = {-reach, reach, *(mpf(k) / root1 for k in kinks)}
        ends |= {mpf(k) * root1 / q12 + s * width for k in kinks for s in (-1, 0, 1)}
        ends = sorted(e for e in ends if abs(e) <= reach)
        results.append(mpmath.quad(integrand, ends))
    return tuple(results)


def _derivatives(polynomials):
    return [[k * a for k, a in enumerate(p)][1:] or [0] for p in polynomials]


def _equal(kinks, one, two, root1, root2):
    """E[f(r1 z) g(r2 z)] of piecewise polynomials f and g of degree at most one."""
    places = [[mpf(k) / root for k in kinks] for root in (root1, root2)]
    ends = sorted({-mpmath.inf, mpmath.inf, *places[0], *places[1]})
    total = mpf(0)
    for low, high in zip(ends, ends[1:]):
        f, g = (p[sum(k <= low for k in at)] for p, at in zip((one, two), places))
        product = [mpf(0)] * 3
        for i, a in enumerate(f):
            for j, b in enumerate(g):
                product[i + j] += a * b * root1**i * root2**j
        if any(product):
            total += _moments(product, mpf(0), mpf(1), low, high)
    return total


def _by_angle(name, q1, q2, q12):
    """By Price's theorem, an integral over the angle from c = 1: degree one."""
    kinks, polynomials = PIECES[name]
    slopes = _derivatives(polynomials)
    root1, root2 = mpmath.sqrt(q1), mpmath.sqrt(q2)
    value, slope = (_equal(kinks, p, p, root1, root2) for p in (polynomials, slopes))
    size = root1 * root2
    if q12 >= size:
        return value, slope
    gap = 1 - q12 / size
    angle = 2 * mpmath.asin(mpmath.sqrt(gap / 2))
    jumps = [right[0] - left[0] for left, right in zip(slopes, slopes[1:])]
    places = [(a / root1, b / root2) for a in kinks for b in kinks]
    sizes = [a * b / (2 * mpmath.pi) for a in jumps for b in jumps]
    squares = [((x - y) ** 2, x * y) for x, y in places]

    def integrand(t):
        """Where u and v both stand at kinks, times sin t; and times cos t - cos(angle)."""
        sine, cosine = mpmath.sin(t / 2) ** 2, mpmath.cos(t / 2) ** 2
        apart = 4 * sine * cosine
        density = sum(
            size * mpmath.exp(-(d / apart + product / cosine) / 2)
            for size, (d, product) in zip(sizes, squares)
        )
        return mpmath.mpc(density, density * 2 * (least - sine))

    least = gap / 2
    # The density of one kink with itself turns on where t is its distance in deviations.
    on = max(abs(k) for k in kinks) * abs(1 / root1 - 1 / root2)
    both = mpmath.quad(integrand, [0, *(e for e in (on / 4, 8 * on) if 0 < e < angle), angle])
    return value - size * (gap * slope - both.imag), slope - both.real

"""The phase diagram as a page to look at: theory at the point under the cursor.

    python -m experiments.interactive_phase_diagram --activations=tanh,relu

writes phase_diagram.html, one file that needs no network and no server. At each point of the grid,
and along the critical line, it holds what `mfcnn.meanfield.fixed_points` gives, to the last digit;
the page itself computes the verdict for a depth and the Fourier modes that survive it from these.
"""

import base64
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags, logging

from experiments import binary, common, ranges
from mfcnn import activations, files, meanfield

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {"activations": ["tanh", "erf", "relu", "gelu", "hard_tanh"], "grid": 80}
_PAPER = {"grid": 160}

_TEMPLATE = pathlib.Path(__file__).with_suffix(".html")
FIELDS = ("q_star", "c_star", "chi_1", "chi_c", "xi_c", "xi_q", "xi_star")
DEPTH_SCALES = 6  # what trains, in units of xi_c, as `mfcnn.meanfield.trainability` has it
PHASES = ("ordered", "critical", "chaotic", "unbounded")
PROFILES = ("gs0", "gs1", "gs2", "gs3", "gs4")
SIZE = (8, 8)  # positions of the Fourier modes


def page(
    names: list[str], grid: int, max_weight_variance: float = 4.0, max_bias_variance: float = 2.0
) -> str:
    """The page.

    Args:
        names: of the activations that can be chosen; the first is shown.
        grid: points in each direction.
        max_weight_variance: the largest sigma_w^2; the grid starts at its first step.
        max_bias_variance: the largest sigma_b^2; the grid starts at 0.

    Returns:
        HTML with everything in it.
    """
    weights = max_weight_variance * np.arange(1, grid + 1) / grid
    biases = max_bias_variance * np.arange(grid + 1) / grid
    data = {
        "depth_scales": DEPTH_SCALES,
        "phases": PHASES,
        "weights": weights.tolist(),
        "biases": biases.tolist(),
        "activations": {name: diagram(name, weights, biases) for name in names},
        "profiles": {
            name: np.abs(meanfield.mode_eigenvalues(name, SIZE)).ravel().tolist()
            for name in PROFILES
        },
    }
    text = _TEMPLATE.read_text()
    return text.replace("/* the data */ null", json.dumps(data, separators=(",", ":")))


def diagram(name: str, weights: np.ndarray, biases: np.ndarray) -> dict[str, Any]:
    """One activation: its fixed points on the grid and on the critical line.

    Args:
        name: of the activation.
        weights: sigma_w^2, [n].
        biases: sigma_b^2, [m].

    Returns:
        {"grid": ..., "line": ...}, each with FIELDS and "phase" as `_packed` makes them; the grid's
        have n * m values, biases fastest, the line's go with its "weights" and "biases".
    """
    points = meanfield.fixed_points(name, weights[:, None], biases)
    line = critical_line(name, float(weights[-1]), float(biases[-1]))
    return {
        "grid": _fields(points),
        "line": {"weights": [w for w, _, _ in line], "biases": [b for _, b, _ in line]}
        | _fields(*(point for _, _, point in line)),
    }


def critical_line(
    name: str, max_weight_variance: float, max_bias_variance: float
) -> list[tuple[float, float, meanfield.FixedPoint]]:
    """Points where signals of variance 1 end critical, at least a 100th of the picture apart.

    Returns:
        (weight_variance, bias_variance, fixed point) by ascending q_star.
    """
    found: list[tuple[float, float, meanfield.FixedPoint]] = []
    reach = max_weight_variance + max_bias_variance  # no larger q* for a phi bounded by 1
    last = (np.inf, np.inf)
    for q_star in np.concatenate([np.geomspace(1e-6, 0.05, 20), np.linspace(0.06, reach, 100)]):
        try:
            w, b = (float(v) for v in meanfield.critical_point(name, float(q_star)))
            far = max(abs(w - last[0]) / max_weight_variance, abs(b - last[1]) / max_bias_variance)
            if far < 0.01 or w > max_weight_variance or b > max_bias_variance:
                continue
            point = meanfield.fixed_point(name, w, b)
        except ValueError:  # no critical point with this q*
            continue
        if point.phase == "critical":
            found.append((w, b, point))
            last = w, b
    return found


def _fields(*points: meanfield.FixedPoint) -> dict[str, str]:
    """FIELDS of arrays of fixed points, one after the other, as text."""
    packed = {}
    for field in FIELDS:
        values = [np.ravel(getattr(point, field)) for point in points]
        packed[field] = _packed(np.concatenate([*values, np.empty(0)]).astype("<f8"))
    phases = np.array([p for point in points for p in np.ravel(point.phase)], dtype=str)
    packed["phase"] = _packed(np.array([PHASES.index(phase) for phase in phases], np.uint8))
    return packed


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("interactive_phase_diagram")
    common.define_names(
        "activations", None, "Those that can be chosen. Default: the preset's.", activations.NAMES
    )
    for name, default in (("max_weight_variance", 4.0), ("max_bias_variance", 2.0)):
        low = {"lower_bound": 1e-3, "upper_bound": ranges.VARIANCE["upper_bound"]}
        flags.DEFINE_float(name, default, f"The {name.replace('max_', 'largest ')}.", **low)
    common.define_override("grid", "Points in each direction.", lower_bound=2)


def main(_: list[str]) -> None:
    """Computes and writes the page."""
    settings = common.settings(_QUICK, _PAPER, ("max_weight_variance", "max_bias_variance"))
    directory = common.prepare_output_dir(settings)
    text = page(
        settings["activations"],
        settings["grid"],
        settings["max_weight_variance"],
        settings["max_bias_variance"],
    )
    files.write_atomically(directory / "phase_diagram.html", text)
    logging.info("%.1f MB written to %s", len(text) / 1e6, directory / "phase_diagram.html")


if __name__ == "__main__":
    binary.start(define_flags, main)

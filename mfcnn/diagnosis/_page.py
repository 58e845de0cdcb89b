"""The picture of a report, and the page that holds it."""

import base64
import html as escaping
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mfcnn.diagnosis._records import Layer, Quantity

if TYPE_CHECKING:
    from mfcnn.diagnosis._report import Report

__all__ = ["figure", "html"]

_PANELS = (("variance", True), ("correlation", False), ("gradient", True))
_COMPARED = ("mean", "variance", "correlation", "gradient", "weight_gradient")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em;
       color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 1.6em; }
.verdict { font-size: 1.1em; padding: .7em 1em; border-left: 5px solid #2a7; background: #f3f8f5; }
.verdict.error { border-color: #a00; background: #fbf2f2; }
.verdict.warning { border-color: #c80; background: #fdf8ee; }
li.error b { color: #a00; } li.warning b { color: #a60; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
td, th { padding: 2px 9px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap;
         vertical-align: top; }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2), .reason { text-align: left; }
.theory { color: #b06000; } td.reason { white-space: normal; min-width: 22em; color: #666; }
"""


def figure(report: "Report") -> Any:
    """Variance, correlation and gradient against depth."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.5, 8), layout="constrained")
    panels = picture.subplots(len(_PANELS), 1, sharex=True)
    depth = np.arange(1, len(report.layers) + 1)
    for panel, (name, logarithmic) in zip(panels, _PANELS):
        quantities = [getattr(layer, name) for layer in report.layers]
        value, spread, theory = (
            np.array([getattr(q, field) for q in quantities])
            for field in ("value", "spread", "theory")
        )
        panel.plot(depth, theory, "-", color="tab:orange", label="theory, infinite width")
        error = np.nan_to_num(spread)
        if logarithmic:
            panel.set_yscale("log")
            shown = value > 0
            low = np.where(value > error, error, value * 0.9)
            bars = np.stack([low, error])[:, shown]
        else:
            shown, bars = np.isfinite(value), error[np.isfinite(value)]
        panel.errorbar(
            depth[shown],
            value[shown],
            yerr=bars,
            fmt=".",
            color="tab:blue",
            elinewidth=0.7,
            label="measured, spread over the draws",
        )
        panel.set_ylabel(f"squared {name}" if name == "gradient" else name)
        panel.grid(alpha=0.3)
    panels[0].legend()
    panels[0].set_title(report.name)
    panels[-1].set_xlabel("layer, in the model's order")
    return picture


def html(report: "Report") -> str:
    """One page without any other file."""
    image = io.BytesIO()
    figure(report).savefig(image, format="png", dpi=110)
    encoded = base64.b64encode(image.getvalue()).decode()
    title = f"Diagnosis of {report.name}"
    findings = "".join(
        f'<li class="{one.severity}"><b>{one.severity} at {_text(one.layer)}</b>: '
        f"{_text(one.reason)} {_text(one.change)}</li>"
        for one in report.findings
    )
    worst = report.findings[0].severity if report.findings else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{_text(title)}</h1>\n"
        f'<p class="verdict {worst}">{_text(report.verdict)}</p>\n'
        f"<p>{_text(report._numbers())}.</p>\n"
        f"<h2>Findings</h2>\n<ul>{findings or '<li>nothing is wrong</li>'}</ul>\n"
        "<h2>Against depth</h2>\n"
        f'<img alt="variance, correlation and gradient against depth" '
        f'src="data:image/png;base64,{encoded}">\n<h2>Layers</h2>\n'
        '<p>Measured, its spread over the draws, and <span class="theory">theory at infinite '
        f"width</span>.</p>\n{_table(report)}\n</body></html>\n"
    )


def _table(report: "Report") -> str:
    """A row for each call: what was measured, its spread, and in gray what theory says."""
    if not report.layers:
        return ""
    heads = ["layer", "kind", "shape", "parameters"]
    heads += [name.replace("_", " ") for name in _COMPARED]
    heads += ["dead", "saturated", "why theory is blank"]
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(f"<tr>{_row(layer)}</tr>\n" for layer in report.layers)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
        "</div>"
    )


def _row(layer: Layer) -> str:
    name = layer.name if not layer.call else f"{layer.name} ({layer.call + 1})"
    shape = " x ".join(map(str, layer.shape))
    cells = [_text(name), _text(layer.kind), shape, f"{layer.parameters:,}"]
    cells += [_quantity(getattr(layer, name)) for name in _COMPARED]
    cells += [_share(layer.dead.value), _share(layer.saturated.value)]
    reason = f'<td class="reason">{_text(layer.reason)}</td>'
    return "".join(f"<td>{cell}</td>" for cell in cells) + reason


def _quantity(quantity: Quantity) -> str:
    shown = _shown(quantity.value)
    if shown and math.isfinite(quantity.spread):
        shown += f" &plusmn; {_shown(quantity.spread, 2)}"
    if math.isfinite(quantity.theory):
        shown += f'<br><span class="theory">{_shown(quantity.theory)}</span>'
    return shown


def _shown(value: float, digits: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def _text(value: str) -> str:
    return escaping.escape(value)

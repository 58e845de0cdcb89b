"""The picture of a report, and the page that holds it."""

import base64
import html as escaping
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mfcnn.diagnosis._report import Report

__all__ = ["figure", "html"]

_PANELS = (("variance", True), ("correlation", False), ("gradient", True))
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; color: #222; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 2px 9px; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
.error { color: #a00; } .warning { color: #a60; } img { max-width: 100%; }
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
        f'<li class="{one.severity}"><b>{_text(one.layer)}</b>: {_text(one.reason)} '
        f"{_text(one.change)}</li>"
        for one in report.findings
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{_text(title)}</h1>\n"
        f"<p>{_text(report.verdict)}</p>\n<p>{_text(report._numbers())}</p>\n"
        f"<ul>{findings or '<li>nothing is wrong</li>'}</ul>\n"
        f'<img alt="variance, correlation and gradient against depth" '
        f'src="data:image/png;base64,{encoded}">\n{_table(report)}\n</body></html>\n'
    )


def _table(report: "Report") -> str:
    rows = [layer.row() for layer in report.layers]
    if not rows:
        return ""
    head = "".join(f"<th>{_text(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(_shown(value))}</td>" for value in row.values()) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _text(value: str) -> str:
    return escaping.escape(value)

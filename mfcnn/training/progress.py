"""What a training shows: a bar on a terminal, plain lines elsewhere."""

import sys
import time

import keras

__all__ = ["Progress"]


class Progress:
    """Progress of one training.

    Args:
        steps: in all.
        verbose: whether anything is shown.
    """

    def __init__(self, steps: int, verbose: bool) -> None:
        self._steps, self._verbose = steps, verbose
        self._clock: float | None = None
        self._from = 0
        self.rate = 0.0  # examples a second; compilation, in the first call, is not counted
        on_terminal = verbose and sys.stdout.isatty()
        names = ("loss", "accuracy", "images/s")
        self._bar = keras.utils.Progbar(steps, stateful_metrics=names) if on_terminal else None

    def update(self, step: int, batch_size: int, loss: float, accuracy: float) -> None:
        """Counts the steps that were done."""
        if self._clock is None:
            self._clock, self._from = time.time(), step
        else:
            seconds = max(time.time() - self._clock, 1e-9)
            self.rate = (step - self._from) * batch_size / seconds
        if self._bar:
            values = [("loss", loss), ("accuracy", accuracy), ("images/s", self.rate)]
            self._bar.update(step, values, finalize=False)

    def report(self, row: dict) -> None:
        """Shows a row of metrics."""
        if not self._verbose:
            return
        words = f"test loss {row['test_loss']:.4f}, test accuracy {row['test_accuracy']:.4f}"
        if self._bar:
            print(f" - {words}", flush=True)
            return
        rate = f", {self.rate:.0f} images/s" if self.rate else ""
        print(
            f"Step {row['step']} of {self._steps}: loss {row['train_loss']:.4f}, accuracy "
            f"{row['train_accuracy']:.4f}, {words}{rate}",
            flush=True,
        )

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar:
            print(flush=True)

"""Another name of `experiments.learning_rates`: Figure 2 of the NTK paper."""

from absl import app

from experiments.learning_rates import define_flags, main

__all__ = ["define_flags", "main"]

if __name__ == "__main__":
    define_flags()
    app.run(main)

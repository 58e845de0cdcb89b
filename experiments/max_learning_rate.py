"""Another name of `experiments.learning_rates`: Figure 2 of the NTK paper."""

import runpy

if __name__ == "__main__":
    runpy.run_module("experiments.learning_rates", run_name="__main__", alter_sys=True)

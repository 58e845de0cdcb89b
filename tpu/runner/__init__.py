"""Executes the training program of a folder by PJRT; needs jax and NumPy, nothing else.

    python -m runner --platform=cpu --devices=4

in a folder that `python -m tpu.execute --export=DIR` wrote. A copy of this package lies in it.
"""

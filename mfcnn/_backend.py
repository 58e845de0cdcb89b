"""Keras must run on TensorFlow: looped stacks and kernels are written in its operations."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "mfcnn needs Keras's TensorFlow backend. Set KERAS_BACKEND=tensorflow in the environment "
        'before Keras is imported, or "backend": "tensorflow" in ~/.keras/keras.json. '
        f"Received: keras.backend.backend()={keras.backend.backend()!r}"
    )

"""A learning rate from theory: a fraction of the largest stable one."""

import tensorflow as tf

__all__ = ["ntk_learning_rate"]


def ntk_learning_rate(model, images, rho=0.3, iterations=12, seed=0):
    """The learning rate rho * 2 / lambda_max of the network's own NTK on a batch.

    For the mean over n examples of a loss whose second derivative by the logits is at most one
    (1/2 |f - y|^2; softmax cross entropy: at most 1/2), full-batch gradient descent follows
    df/dt = -(J J^T / n) df, so that steps up to 2 / lambda_max(J J^T / n) are stable near the
    start (NTK paper, section 3.1, where rho = 0.3 trains well). J J^T is never formed: each power
    step is one vector-Jacobian and one Jacobian-vector product. In a strategy's scope every replica
    does the same on the whole batch.

    Args:
        model: built `keras.Model` from images to outputs [n, k].
        images: [n, ...].
        rho: fraction of the largest stable rate.
        iterations: power steps. The Rayleigh quotient comes from below; the relative error after
            t steps is about (lambda_2 / lambda_1)^(2 t).
        seed: of the starting vector.

    Returns:
        (learning rate, lambda_max) as floats.

    Raises:
        ValueError: if rho is not positive, or lambda_max is zero or not finite: the outputs do not
            depend on the parameters to machine precision, or overflow.
    """
    if not rho > 0:
        raise ValueError(f"rho must be positive. Received: rho={rho!r}")
    variables = [v.value for v in model.trainable_variables]
    images = tf.convert_to_tensor(images)
    strategy = tf.distribute.get_strategy()

    def power_step(vector):
        with tf.GradientTape() as tape:
            outputs = model(images, training=False)
        tangents = tape.gradient(
            outputs, variables, vector, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        with tf.autodiff.ForwardAccumulator(variables, tangents) as accumulator:
            outputs = model(images, training=False)
        product = accumulator.jvp(outputs) / tf.cast(tf.shape(outputs)[0], outputs.dtype)
        size = tf.norm(product)
        return tf.math.divide_no_nan(product, size), size

    # On a TPU a replica is the only place where a program runs as a whole.
    run = tf.function(lambda vector: strategy.run(power_step, args=(vector,)), autograph=False)
    shape = model.compute_output_shape(images.shape)
    vector = tf.random.stateless_normal(shape, [seed, 0])
    vector, size = vector / tf.norm(vector), tf.constant(0.0)
    for _ in range(iterations):
        vector, size = (strategy.experimental_local_results(x)[0] for x in run(vector))
    lambda_max = float(size)
    if not 0 < lambda_max < float("inf"):
        raise ValueError(
            f"The NTK's largest eigenvalue is {lambda_max}: the network is too deep in the ordered "
            "or the chaotic phase for a learning rate to exist."
        )
    return 2 * rho / lambda_max, lambda_max

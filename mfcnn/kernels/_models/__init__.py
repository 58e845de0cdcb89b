"""Kernels of Keras models: from layers to random signals, from signals to covariances.

registry       which rule reads a layer: by its class, and only where nothing is overridden
reading        the graph of a model, layer by layer, without any arithmetic
rules_*        the rules: weights, attention, positions, joins, normalization, activations
weights        variances of initializers; which weights are trained
signals        random signals, as the rules make them
pairs          the covariance of any two signals, from those of their parents
covariance     the tensors that hold a covariance, and what maps do to them
mixing         sums over positions with weights of each input: attention, masks
sampled        Monte Carlo where there is no closed form
model_kernel   `from_keras` and the kernel that it returns
"""

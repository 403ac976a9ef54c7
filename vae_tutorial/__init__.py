"""The functions behind the book, one idea to a module.

In the order in which the chapters need them; a module imports only modules above it:

===================  ===================================================================================================
``gaussian``         diagonal Gaussians by mean and log-variance: density, reparameterized samples, KL, entropy
``linear_gaussian``  factor analysis: a model whose evidence and posterior are known exactly
``full_gaussian``    Gaussians with correlations, by mean and Cholesky factor
``divergences``      the KL divergence estimated from samples
``quadrature``       Gauss-Hermite nodes: expectations under a Gaussian without randomness
``likelihoods``      log p(x given z), summed over the data's dimensions
``item_response``    the pass/fail model: not conjugate, exact by quadrature
``bounds``           the evidence lower bound and its neighbours, from importance weights
``gradients``        the ELBO's gradient: score function, pathwise, path derivative
``variational``      Gaussian families without a network, and the loop that fits them
``audit``            what a VAE loss computes, found by probing it
``models``           autoencoders and variational autoencoders: linear, fully connected, convolutional
``training``         one training loop
``evaluation``       how well a trained model explains data it has not seen
``data``             exam marks, Fashion-MNIST and MNIST as tensors with fixed splits
``train``            the training loop from the command line
``figures``          drawing what the others compute; needs matplotlib, and only this module does
===================  ===================================================================================================

Import from the modules, so that a reader sees where a function lives::

    from vae_tutorial import bounds, gaussian

Conventions: samples come first, (K, B, J); results are in nats, summed over dimensions and never averaged; a quantity keeps
the sign of its name; whatever draws random numbers takes a ``generator``.
"""

__version__ = "0.1.0"

"""The functions behind the book, one idea to a module.

From the bottom of the house to the top; a module imports only modules above it in this list:

===================  ===================================================================================================
``gaussian``         diagonal Gaussians by mean and log-variance: density, reparameterized samples, KL, entropy
``full_gaussian``    Gaussians with correlations, by mean and Cholesky factor
``quadrature``       Gauss-Hermite nodes: expectations under a Gaussian without randomness
``bounds``           the evidence lower bound and its neighbours, from importance weights
``checks``           is a density one, and are samples from it: for distributions of one's own
``linear_gaussian``  factor analysis: a model whose evidence and posterior are known exactly
``item_response``    the pass/fail model: not conjugate, exact by quadrature
``gradients``        gradients of the ELBO and of the K-sample bound, one for each sample
``flows``            invertible maps with their log-determinants: planar, coupling, autoregressive
``families``         what q(z given x) may be: mean field, full rank, either bent by a flow
``priors``           what p(z) may be: standard normal, mixture of Gaussians, a flow, VampPrior
``likelihoods``      what p(x given z) may be: functions, and one small object each
``divergences``      the KL divergence: in closed form where there is one, else from samples
``networks``         encoders and decoders: linear, fully connected, convolutional for any size
``models``           VAEs, composed of the parts above, and autoencoders
``objectives``       what training maximises: the ELBO, with a weight on the KL, importance-weighted, with free bits ...
``variational``      fitting a family without a network
``records``          files: written whole or not at all, and what a run is
``training``         one training loop, for one device or several
``evaluation``       how probable a trained model finds data it has not seen
``annealing``        annealed importance sampling, in both directions
``aggregated``       the aggregated posterior: information and misfit
``data``             exam marks, Fashion-MNIST and MNIST as tensors with fixed splits
``datafiles``        data of one's own: a folder of images, an array, a table
``train``            the training loop from the command line
``cli``              one command with four verbs: train, sample, reconstruct, evaluate
``audit``            what a VAE loss computes, found by probing it
``figures``          drawing what the others compute; needs matplotlib, and only this package does
===================  ===================================================================================================

Import from the modules, so that a reader sees where a function lives::

    from vae_tutorial import bounds, gaussian

Conventions: samples come first, (K, B, J); results are in nats, summed over dimensions and never averaged; a quantity keeps
the sign of its name; whatever draws random numbers takes a ``generator``.
"""

__version__ = "0.1.0"

"""Training of flightrtl networks in PyTorch: ``python -m train --help``.

=============  ====================================================================
quantize       weights as sums of signed powers of two; thresholds; the group lasso
activation     activations on a power-of-two grid
layers         a convolution or dense layer in its float and its quantized stage
networks       named networks
augment        random affine changes of training images
recipe         everything that determines a training run; TOML recipes
schedule       learning rates, lambda and stages over the epochs
trainer        the loop, with checkpoints that resume exactly
journal        progress lines, JSON and CSV logs
export         the trained network as integers, proved equal to the golden model
verify         the same proof for a model file: ``python -m train.verify MODEL``
plot           a picture of a log: ``python -m train.plot LOG.json``
samples        writes the sample images that the package brings along
=============  ====================================================================
"""

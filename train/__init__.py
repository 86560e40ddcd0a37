"""Training of flightrtl networks in PyTorch: ``python -m train --help``.

=============  ====================================================================
methods        the training methods by name; number formats of a layer
quantizers     real weights to weights of a format, one file for each kind
activation     activations on a power-of-two grid
layers         convolution, dense layer, addition, pooling in both stages
binary_layers  the same for binary networks, where signs take the place of ReLU
distribution   the distribution loss of binary networks
network        a graph of these
networks       named networks, as plain PyTorch modules
tracing        reads the graph of such a module, or lists what is not supported
spelling       what calls in that graph mean; also pooling, unsupported
convert        makes a quantized network of it
equivalence    compares it with the module
data, augment  images for the trainer, and random changes of them
recipe         everything that determines a training run; TOML recipes
schedule       learning rates, lambda and stages over the epochs
mixed          searches the formats of each layer: ``python -m train.mixed``
target         steers lambda to a wanted mean number of terms
average        moving average of the weights
distributed    several processes or GPUs
trainer        the loop, with checkpoints that resume exactly
checkpoint     the state of a run on disk
floatfile      float networks on disk, to start from
journal        progress lines, JSON and CSV logs
export         the trained network as integers, proved equal to the golden model
origin         the command and the versions that a result comes from
finish         the files that a run leaves
posttrain      a float network as integers without training: ``python -m train.posttrain FLOAT``
calibration    chooses its terms and corrects its biases, by looking at images
verify         the same proof for a model file: ``python -m train.verify MODEL``
plot           a picture of a log: ``python -m train.plot LOG.json``
samples        writes the sample images that the package brings along
=============  ====================================================================
"""

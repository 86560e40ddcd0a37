"""Weight quantizers: small pure functions, and the modules that a layer holds.

========  ==========================================================================
base      the interface to a layer; exact powers of two
terms     sums of signed powers of two: rounding, thresholds, gradients, group lasso
flightnn  FLightNN and LightNN, made of these
fixed     two's complement of a few bits
binary    the sign, for binary networks
nbq       n-BQ-NN: zero or one power of two, blended in
sparse    any of them with a share of the filters pruned
========  ==========================================================================
"""

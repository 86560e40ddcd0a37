"""Simulation: real images through the gateware, every logit against the golden model.

Run ``python -m sim MODEL`` from a checkout. :mod:`sim.engine` says what a simulator of networks has
to be able to do. :mod:`sim.amaranth_engine` is the one that needs nothing but Amaranth,
:mod:`sim.cxxrtl_engine` the fast one. :mod:`sim.cxxrtl` compiles any component.
"""

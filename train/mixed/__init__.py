"""Formats chosen for each layer by Bayesian optimisation: ``python -m train.mixed --help``.

========  ==========================================================================
space     the weight formats there are to choose from, and one choice for every layer
cost      what a choice costs: bits, or the planner's estimate on a board
trial     how good a choice is: a short training run, judged against the float network
search    the optimisation (TPE, from optuna), which can be interrupted and resumed
========  ==========================================================================

The result is a recipe, which ``python -m train`` carries out in full.
"""

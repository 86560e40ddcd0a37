"""Choosing how a model is computed on a board: foldings, rates and costs, before synthesis."""

from .cost import Cost
from .plan import LayerPlan, Plan
from .search import FrontPoint, front, plan

__all__ = ["Cost", "FrontPoint", "LayerPlan", "Plan", "front", "plan"]

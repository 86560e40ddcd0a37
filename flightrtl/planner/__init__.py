"""Choosing how a model is computed on a board: foldings, rates and costs, before synthesis."""

from .cost import Cost
from .plan import LayerPlan, Plan
from .search import DATAFLOWS, FrontPoint, front, plan

__all__ = ["DATAFLOWS", "Cost", "FrontPoint", "LayerPlan", "Plan", "front", "plan"]

"""Threats beyond the l_p ball: a patch, turns and shifts, common corruptions. Each can check any candidate."""

from sparring.perturbations.corruptions import Corruptions, corrupt
from sparring.perturbations.finite import FiniteThreat
from sparring.perturbations.patch import Patch
from sparring.perturbations.placement import Placements, Placing
from sparring.perturbations.recipes import RECIPES
from sparring.perturbations.spatial import Spatial

__all__ = ["RECIPES", "Corruptions", "FiniteThreat", "Patch", "Placements", "Placing", "Spatial", "corrupt"]

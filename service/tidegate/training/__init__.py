"""Training: recipes, data, the fit, evaluation. Writes versions into the model repository; no server needs it."""

from tidegate.training.recipe import Recipe, load_recipe, make_recipe
from tidegate.training.trainer import train

__all__ = ["Recipe", "load_recipe", "make_recipe", "train"]

"""How good a model is: streamed through the serving code, beside forecasts that anybody can make."""

from tidegate.training.evaluation.one_step import evaluate, mean_absolute_errors

__all__ = ["evaluate", "mean_absolute_errors"]

"""Training: the loop, what listens to it, and what it leaves behind."""

from gpubackprop.training.callbacks import Callback, EarlyStopping, FitPlan, FitProgress, GradientTolerance
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History
from gpubackprop.training.trainer import Trainer

__all__ = [
    "Callback",
    "EarlyStopping",
    "FitPlan",
    "FitProgress",
    "GradientTolerance",
    "History",
    "Trainer",
    "evaluate",
]

"""Training: the loop, what listens to it, and what it leaves behind."""

from gpubackprop.training.callbacks import Callback, EarlyStopping, GradientTolerance, Plan, Progress
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History
from gpubackprop.training.trainer import Trainer

__all__ = [
    "Callback",
    "EarlyStopping",
    "GradientTolerance",
    "History",
    "Plan",
    "Progress",
    "Trainer",
    "evaluate",
]

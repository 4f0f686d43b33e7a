"""Training: the loop, what listens to it, and what it leaves behind."""

from gpubackprop.training.callbacks import Callback, EarlyStopping, FitPlan, FitProgress, GradientTolerance, Training
from gpubackprop.training.checkpoints import Checkpoints
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History
from gpubackprop.training.interrupts import Interrupts, TrainingInterrupted
from gpubackprop.training.trainer import Trainer

__all__ = [
    "Callback",
    "Checkpoints",
    "EarlyStopping",
    "FitPlan",
    "FitProgress",
    "GradientTolerance",
    "History",
    "Interrupts",
    "Trainer",
    "Training",
    "TrainingInterrupted",
    "evaluate",
]

"""Several processes that train one network together: each goes through its own rows of every batch.

    mpiexec -n 4 python script.py         # with gb.Trainer(net, optimizer, distributed="auto")
    mpiexec -n 4 gpubackprop train ...

After delta-propagation the gradients of all processes are added up in one all-reduce, and each does the same update: their
weights have the same bits at every step, and are those of one process to rounding.
"""

from gpubackprop.distributed.communicator import Communicator
from gpubackprop.distributed.launch import join, local_device

__all__ = ["Communicator", "join", "local_device"]

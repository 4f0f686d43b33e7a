"""The libraries that a training step is compared with, one module each, all with the same small face (`base.Peer`)."""

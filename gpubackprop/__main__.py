"""`python -m gpubackprop`: the command `gpubackprop`."""

from gpubackprop.cli import main

main()

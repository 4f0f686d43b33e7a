"""The libraries that `benchmarks.gpu` compares on one GPU, behind one face."""

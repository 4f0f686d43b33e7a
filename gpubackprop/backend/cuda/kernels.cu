// All CUDA C++ of gpubackprop: one translation unit, expanded by compile.py for NVRTC and by the CPU shim for g++.
//
// Conventions, everywhere:
//   * matrices are row-major, a row is a sample: x[r * cols + c];
//   * storage types are float, double, f16, bf16; arithmetic and sums are float, for double storage double (acc_t);
//   * kernels are templates; the host asks for an instantiation by its name expression, "activation<float, ReLU>",
//     and gets the signature and launch geometry from kernel_table.py;
//   * every block has a multiple of 32 threads; no kernel uses dynamic shared memory; atomics count the blocks that are done
//     and nothing else, so that the same launch on the same input gives the same bits; whatever changes from step to step
//     is read from device memory, so that a captured graph can be replayed;
//   * a pointer that may be null says so; a pass over elements may work in place unless its comment forbids it.
#include "numerics.cu"
#include "activation.cu"
#include "loss.cu"
#include "gather.cu"
#include "random.cu"
#include "norm.cu"
#include "optimizer.cu"
#include "layerwise.cu"
#include "normalization.cu"
#include "narrow.cu"

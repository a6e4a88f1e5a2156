"""The same step, compiled: by numba on a CPU, as a CUDA graph on a GPU; weights of one byte."""

"""Attention kernels that return the log-sum-exp, so that partial results can be merged."""

"""Attention kernels that give out the log-sum-exp, so that partial results can be merged."""

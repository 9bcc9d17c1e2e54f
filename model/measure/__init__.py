"""Measurements inside one process: prefill, decode, host time, memory bandwidth.

`ours.py` and `mlx_lm_worker.py` are programs that take the same commands (protocol.py), so that
`mxserve bench` can let the two take turns on one checkpoint.
"""

"""Kernel launches of a function as MLX's Metal back end would make them, counted without Metal.

`record` (graph.py) writes down the primitives of a function without computing it, with stand-ins
(stand_ins.py) where Metal has one kernel and a CPU many primitives. `fused` (fusion.py) joins
elementwise chains as mx.compile does. `launches` (metal.py) walks the rest: views are free,
everything else takes what the back end's source says, and what lies oddly in memory is copied.
"""

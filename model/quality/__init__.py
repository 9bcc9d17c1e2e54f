"""How good a checkpoint is beside the one it was made from: `mxserve quality`, and what a text does
to a network's inputs, of which importance matrices are made: `mxserve imatrix`.

Both run networks one layer at a time (`streaming.py`), so that memory holds one layer in float32
and the hidden states of the text, never a whole checkpoint.
"""

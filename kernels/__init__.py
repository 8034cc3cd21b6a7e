"""Triton kernels for GPUs of compute capability 8.0 and up: one op a file.

`tiles` describes tiles that lie in device memory, `decode_block` turns 8 columns of 64 rows into registers (one
function a codec), `tile_decode` and `paged_linear` are the ops, `support` says in words why they cannot run. Importing
this package imports neither triton nor torch.
"""

"""The packed model directory: packing a checkpoint, opening, checking and describing the result.

`csrc/c3/FORMAT.md` specifies every byte. The rooms: `pack` writes, `directory` opens, `inspect` describes and reseals.
"""

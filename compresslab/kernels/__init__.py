"""Arrays in, arrays out: the compiled loops of the course, on NumPy arrays, knowing nothing of torch.

A file has what is called, and `..._loops` the loops behind it. `simd` is the vector vocabulary that they are
written in. `reference` computes the same in slow, obvious NumPy; `problems` holds each against it.
"""

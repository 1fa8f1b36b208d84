"""Arrays in, arrays out: the compiled loops of the course, on NumPy arrays, knowing nothing of torch.

`reference` holds the slow, obvious NumPy twin of every kernel, with the same name and signature; tests
hold each pair equal. `simd` is the vector vocabulary that the fast ones are written in.
"""

"""As much of torch as Isaac Gym code needs: float tensors that share memory with NumPy arrays."""

import numpy as np


class Tensor:
    def __init__(self, array):
        self.array = array

    @property
    def shape(self):
        return self.array.shape

    def __getitem__(self, index):
        return Tensor(self.array[index])

    def __setitem__(self, index, value):
        self.array[index] = value.array if isinstance(value, Tensor) else value

    def cpu(self):
        return self

    def to(self, device):
        return self

    def clone(self):
        return Tensor(self.array.copy())

    def numpy(self):
        return self.array


def from_numpy(array):
    assert array.dtype == np.float32 and array.flags["C_CONTIGUOUS"]
    return Tensor(array)

import sys

assert "torch" not in sys.modules, "isaacgym must be imported before torch"
import torch  # noqa: E402


def wrap_tensor(buffer):
    return torch.Tensor(buffer)


def unwrap_tensor(tensor):
    return tensor.array

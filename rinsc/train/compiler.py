"""Whether torch.compile works here, asked before a run depends on it."""

from __future__ import annotations

import torch

from rinsc.errors import Problem, RinscError


def require_compiler(device: torch.device | str) -> None:
    """Compile one small function; raises RinscError where that fails.

    Above all it fails without a C++ compiler, which PyTorch does not bring along.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        torch.compile(torch.square)(torch.ones(8, device=device))
    except TorchDynamoException as error:
        message = f"torch.compile does not work here: {str(error).splitlines()[0]:.200}"
        hint = "install a C++ compiler, or train without --compile"
        raise RinscError(Problem("cannot-compile", message, hint=hint)) from None

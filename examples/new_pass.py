"""Add a pass to the compiler: write the last round of each repeat out.

A pass is a function from a block graph to a block graph. It may not change what runs at the
rounds written: rinsc compares before and after, so a wrong pass is an error. In `A^3 B`:

    before:  A ×3, B           after:  A ×2, A, B

    $ python new_pass.py
"""

from dataclasses import replace

import torch

import rinsc
from rinsc.graph import PASSES, BlockGraph, Loop, Pass, run_passes


def peel(graph: BlockGraph) -> BlockGraph:
    """`A ×3` as `A ×2`, then the body once more."""
    steps = []
    for step in graph.steps():
        if isinstance(step, Loop) and step.rounds > 1:
            steps += [replace(step, rounds=step.rounds - 1), *step.body.steps()]
        else:
            steps.append(step)
    return graph.with_steps(steps)


graph = rinsc.build_graph(rinsc.model_spec("(A^3)B", preset="tiny", layers=2))
# The dial has another meaning afterwards: it counts the rounds before the last one.
peeled = run_passes(graph, (*PASSES, Pass(peel, adds_dials=True)))


def shown(step):
    return f"{step.name} ×{step.rounds}" if isinstance(step, Loop) else step.block


print("before:", ", ".join(map(shown, graph.steps())))
print("after: ", ", ".join(map(shown, peeled.steps())))

before, after = rinsc.to_torch(graph), rinsc.to_torch(peeled)
after.load_state_dict(before.state_dict())
ids = torch.arange(8).unsqueeze(0)
print("same logits:", torch.equal(before(ids), after(ids)))


def forget(graph: BlockGraph) -> BlockGraph:
    """A wrong pass: it drops the last step."""
    return graph.with_steps(list(graph.steps())[:-1])


try:
    run_passes(graph, (Pass(forget),))
except rinsc.RinscError as error:
    print("a wrong pass:", error.message)

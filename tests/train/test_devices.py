"""Where a run trains: what torchrun tells each process."""

from __future__ import annotations

import pytest
import torch

from rinsc.errors import UsageError
from rinsc.training.devices import find_devices

MEETING = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871"}


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK expected"),
        ({**MEETING, "RANK": "first"}, "'first'"),
        ({**MEETING, "MASTER_PORT": "any"}, "'any'"),
    ],
)
def test_processes_that_cannot_meet_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], named: str
) -> None:
    for name in MEETING:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        find_devices("cpu")
    assert caught.value.code == "bad-launch"
    assert named in caught.value.message
    assert "torchrun" in str(caught.value.hint)


def test_more_processes_than_gpus_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {**MEETING, "WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own"):
        find_devices("cuda")

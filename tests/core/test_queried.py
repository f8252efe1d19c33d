import torch

from kdbench.core import queried
from kdbench.core.queried import Queried


def test_an_image_counts_once_however_often_it_is_asked_about(monkeypatch) -> None:
    monkeypatch.setattr(queried, "_PATIENCE", 2)
    seen = Queried()
    assert len(seen) == 0
    for batch in ([5, 3], [3, 9], [5, 5], [1], [9]):
        seen.add(torch.tensor(batch))
    assert seen.index.tolist() == [1, 3, 5, 9]
    again = Queried(seen.index)
    again.add(torch.tensor([1, 2]))
    assert len(again) == 5

"""What a study runs over: one set of networks, or teacher-student pairs with settings of their own; and its methods."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.core.errors import nearest

EPOCHS_TIMES = "epochs_times"  # stands among a pair's settings of an arm as it stands in the arm itself


def network_sets(study: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The networks that every arm is expanded over, the largest first.

    Args:
        study: Its resolved YAML.

    Returns:
        Teacher and student of each chosen pair by its name; where a study has no pairs, its networks under ``""``.
    """
    if known := study.get("known_pairs"):
        return {name: [known[name]["teacher"], known[name]["student"]] for name in study["pairs"] or known}
    return {"": study["networks"] or study["families"][study["family"]]["networks"]}


def chosen_arms(study: Mapping[str, Any], pair: str = "") -> dict[str, Mapping[str, Any]]:
    """The chosen arms of one pair, in the order of the YAML, with the pair's own settings in their ``set``."""
    own = study["known_pairs"][pair].get("arms") or {} if pair else {}
    found = {}
    for name, content in study["arms"].items():
        content = content or {}
        if (study.get("methods") and name not in study["methods"]) or pair not in content.get("pairs", [pair]):
            continue
        settings = {**(content.get("set") or {}), **own.get(name, {})}
        times = settings.pop(EPOCHS_TIMES, content.get(EPOCHS_TIMES))
        found[name] = {**content, "set": settings, EPOCHS_TIMES: times}
    return found


def selection_problems(study: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the pairs and methods that were chosen, one line each."""
    for key, known in (("pairs", study.get("known_pairs") or {}), ("methods", study["arms"])):
        chosen = study.get(key)
        if chosen is not None and (not isinstance(chosen, list) or not chosen):
            yield f"study.{key}={chosen}: a list is expected, e.g. study.{key}=[{','.join(list(known)[:2])}]"
            continue
        yield from (f"study.{key}: {name}: unknown{nearest(str(name), known)}" for name in chosen or ()
                    if name not in known)  # fmt: skip
    if study.get("known_pairs") and study.get("networks"):
        yield f"study.networks: study={study['name']} runs over pairs; choose some with study.pairs=[A,B]"

"""What a command would train: the unique networks of all its jobs in order, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from kdbench.config.recipes import Chain, Link
from kdbench.core.recipe import Recipe, topological
from kdbench.store import Entry, Store

State = Literal["train", "resume", "in store", "use as is"]


@dataclass(frozen=True)
class Node:
    """One network of a plan, whoever needs it.

    Attributes:
        recipe: How it is made.
        role: The role it plays first: the same network can teach in one job and be taught in another.
        state: What would be done for it.
        entry: Where it is, if it is in the store.
    """

    recipe: Recipe
    role: str
    state: State
    entry: Entry | None = None


@dataclass(frozen=True)
class Plan:
    """All networks of all jobs, each once, teachers before those they teach."""

    chains: Sequence[Chain]
    nodes: Mapping[str, Node]

    @cached_property
    def missing(self) -> list[Recipe]:
        """What is not in the store yet, in an order in which it can be made."""
        return [node.recipe for node in self.nodes.values() if node.entry is None]

    @cached_property
    def measured(self) -> list[Recipe]:
        """What ``eval=[...]`` measures, each once: every job's last network, and those that taught it.

        Of the teachers only those that the job names and that know the same data; never random weights.
        """
        found: dict[str, Recipe] = {}
        for chain in self.chains:
            last = chain.links[-1].recipe
            named = {link.recipe.digest for link in chain.links}
            for recipe in (*last.teachers, last):
                random, same_data = recipe.network["train"] == "random", recipe.data["name"] == last.data["name"]
                if recipe.digest in named and same_data and not random:
                    found.setdefault(recipe.digest, recipe)
        return list(found.values())

    def unmeasured(self, store: Store, evaluations: Mapping[str, Any]) -> list[Recipe]:
        """Those of :attr:`measured` that lack some of the evaluations.

        Raises:
            StoreError: A measurement is damaged.
        """
        return [one for one in self.measured if len(store.find_evals(one.digest, evaluations)) < len(evaluations)]

    @cached_property
    def finals(self) -> list[Recipe]:
        """The last network of every job, each once."""
        return list({chain.links[-1].recipe.digest: chain.links[-1].recipe for chain in self.chains}.values())

    @cached_property
    def links(self) -> list[Link]:
        """The networks that jobs name, each once, in their order."""
        seen: dict[tuple[str, str], Link] = {}
        for chain in self.chains:
            for link in chain.links:
                seen.setdefault((link.role, link.recipe.digest), link)
        return list(seen.values())


def method_name(recipe: Recipe) -> str | None:
    """The criteria a network was trained with, ``kd+at``; nothing for the task loss alone."""
    return None if recipe.method is None else "+".join(recipe.method["criteria"])


def _all(chains: Sequence[Chain]) -> Iterator[Recipe]:
    return topological(link.recipe for chain in chains for link in chain.links)


def _needed(chains: Sequence[Chain], entries: Mapping[str, Entry | None]) -> Iterator[Recipe]:
    """What chains name, and what teaches a network that is still to be made: not the past of one that is stored."""
    waiting = [link.recipe for chain in chains for link in chain.links]
    while waiting:
        recipe = waiting.pop()
        yield recipe
        if entries[recipe.digest] is None:
            waiting += recipe.teachers


def make_plan(chains: Sequence[Chain], store: Store) -> Plan:
    """Looks up in the store what the chains need.

    Raises:
        StoreError: A stored network that is needed is damaged.
    """
    roles: dict[str, str] = {}
    for chain in chains:
        for link in chain.links:
            roles.setdefault(link.recipe.digest, link.role)
    entries = {recipe.digest: store.get(recipe.digest) for recipe in _all(chains)}
    needed = {recipe.digest for recipe in _needed(chains, entries)}
    nodes: dict[str, Node] = {}
    for recipe in _all(chains):
        if recipe.digest not in needed:
            continue
        entry = entries[recipe.digest]
        state: State = "train" if recipe.epochs else "use as is"
        if entry is not None:
            state = "in store"
        elif store.has_checkpoint(recipe.digest):
            state = "resume"
        nodes[recipe.digest] = Node(recipe, roles.get(recipe.digest, "teacher"), state, entry)
    return Plan(chains, nodes)

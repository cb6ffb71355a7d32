"""Many histories: the seeds of a range, over all cores."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import NamedTuple

from synchrotron.application import App
from synchrotron.errors import UsageError
from synchrotron.testing.simulation.simulation import Failure, Result, Simulation
from synchrotron.testing.simulation.trial import Trial

SEEDS_PER_TASK = 10


@dataclass(frozen=True)
class Recipe:
    """How to make the simulation of a seed, also in another process."""

    target: str | None = None
    """`module:attribute` of an application; None for the trial of the core itself."""
    replicas: int = 3
    steps: int = 96

    def simulation(self, seed: int) -> Simulation:
        """Raises `UsageError` where there is no such application."""
        if self.target is None:
            return Trial(seed=seed, replicas=self.replicas, steps=self.steps)
        app = load(self.target)
        simulation = Simulation(app, seed=seed, replicas=self.replicas, steps=self.steps)
        simulation.command = f"synchrotron simulate {self.target}"
        return simulation


class Played(NamedTuple):
    """What some seeds gave."""

    result: Result
    failures: dict[int, Failure]


def load(target: str) -> App:
    """The application `module:attribute`. Raises `UsageError`."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{target!r} names no application: write MODULE:ATTRIBUTE, as in todo:app")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder that the command is run in
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise UsageError(f"there is no module {module_name!r} here or installed") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        apps = sorted(name for name, value in vars(module).items() if isinstance(value, App))
        hint = f": did you mean {module_name}:{apps[0]}?" if apps else ", nor any other"
        raise UsageError(f"{module_name!r} has no application named {attribute!r}{hint}")
    return app


def play(recipe: Recipe, seeds: Sequence[int]) -> Played:
    """Play the histories of these seeds one after another."""
    played = Played(Result(), {})
    for seed in seeds:
        result = recipe.simulation(seed).play()
        played.result.add(result)
        if result.failure is not None:
            played.failures[seed] = result.failure
    return played


def play_many(recipe: Recipe, seeds: Sequence[int], jobs: int) -> Iterator[Played]:
    """Play the histories of these seeds, some at a time, as they come."""
    parts = [seeds[i : i + SEEDS_PER_TASK] for i in range(0, len(seeds), SEEDS_PER_TASK)]
    if jobs == 1:
        yield from (play(recipe, part) for part in parts)
        return
    # Each process starts afresh: a fork would share this one's threads and connections.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        tasks = [pool.submit(play, recipe, part) for part in parts]
        for task in as_completed(tasks):
            yield task.result()

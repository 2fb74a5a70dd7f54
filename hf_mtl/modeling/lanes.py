"""Lanes: which rows of the encoder's states go through whose adapters."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

_OF_THREAD = threading.local()


@dataclass(frozen=True)
class Route:
    """The way of one batch through the encoder.

    Args:
        slices: (lane, rows): consecutive rows of the states; rows behind them are no lane's.
        index: the row of the batch that each row of the states is a copy of; None where each is itself.
    """

    slices: tuple[tuple[str, int], ...]
    index: Tensor | None = None


NO_ROUTE = Route(())


class Lanes:
    """The lanes of a model: tasks in one lane read the same states, tasks in different lanes a copy of a row each.

    A lane has the name of its adapter; the lane of tasks without one is "". The route of the batch that is encoded now
    stands here, where the adapted layers look it up: stock encoders hand nothing down to their layers.

    Args:
        tasks: the lane of each task, in the order of tasks.
        adapters: the adapters that a lane's rows go through, in sum; the one called as the lane where nothing is said.
        groups: the group of each lane, in the order of the groups: those with fewer private layers first, so that all
            rows that pass through a layer of the encoder's own stand together.
    """

    def __init__(
        self,
        tasks: Mapping[str, str],
        adapters: Mapping[str, tuple[str, ...]] | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        self.tasks = dict(tasks)
        self.adapters = {lane: (lane,) if lane else () for lane in self.tasks.values()} | dict(adapters or {})
        self.groups = dict(groups or {})
        self._route = NO_ROUTE

    def take(
        self, rows: Mapping[str, Tensor] | None, count: int, tasks: Sequence[str], device: torch.device
    ) -> "Shares":
        """Sets the route of a batch.

        Args:
            rows: the index of each task's rows, `[rows_t]`; None where every row is each task's.
            count: the rows of the batch.
            tasks: the tasks to encode for.
            device: that of the batch.

        Returns:
            What finds each task's states among those that the encoder gives.
        """
        lanes: dict[str, list[str]] = {lane: [] for lane in self.groups}
        for task in tasks:
            lanes.setdefault(self.tasks[task], []).append(task)
        lanes = {lane: members for lane, members in lanes.items() if members}
        if len(lanes) <= 1:
            self._set(Route(tuple((lane, count) for lane in lanes)))
            return Shares({task: None if rows is None else rows[task] for task in tasks})
        own = {lane: _rows_of(members, rows, count, device) for lane, members in lanes.items()}
        index = torch.cat(list(own.values()))
        # Stock layers refuse zero rows, and a process without rows must pass through all adapters nevertheless.
        self._set(
            Route(
                tuple((lane, len(found)) for lane, found in own.items()),
                index if len(index) else torch.zeros(1, dtype=torch.long, device=device),
            )
        )
        places: dict[str, Tensor | None] = {}
        for lane, members in lanes.items():
            for task in members:
                if rows is None or len(members) == 1:
                    places[task] = None
                else:
                    places[task] = torch.searchsorted(own[lane], rows[task])
        return Shares({task: places[task] for task in tasks}, {task: self.tasks[task] for task in tasks}, own)

    @property
    def route(self) -> Route:
        """The route of the batch that this thread encodes, or whose gradients are computed."""
        if torch.is_grad_enabled():
            return self._route
        lanes, route = getattr(_OF_THREAD, "route", (None, NO_ROUTE))
        return route if lanes is self else NO_ROUTE

    def leave(self) -> None:
        """Forgets the route: what passes through the encoder next is no batch of tasks."""
        self._route, _OF_THREAD.route = NO_ROUTE, (self, NO_ROUTE)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """While this thread encodes a batch; afterwards its route is forgotten: the encoder alone has none."""
        try:
            yield
        finally:
            _OF_THREAD.route = self, NO_ROUTE
            if torch.is_grad_enabled():
                self._route = NO_ROUTE

    def passed(self, states: Tensor) -> Tensor:
        """The states that the encoder gave, whose backward, which may compute them again, finds their route."""
        if states.requires_grad:
            states.register_hook(partial(self._set_again, self._route))
        return states

    def _set_again(self, route: Route, _: Tensor) -> None:
        """The first that a backward does in the encoder: the route is set until all of the backward is done."""
        self._route = route
        torch.autograd.Variable._execution_engine.queue_callback(self.leave)

    def index(self) -> Tensor | None:
        """The rows that are copied, for `FanOut`."""
        return self.route.index

    def _set(self, route: Route) -> None:
        # Threads may share a model that answers. In training the backward, which may compute states again, can run in
        # a thread of its own: there the route is the model's.
        _OF_THREAD.route = self, route
        if torch.is_grad_enabled():
            self._route = route


@dataclass(frozen=True)
class Shares:
    """Where each task's states are among the encoder's.

    Args:
        places: the rows of each task within its lane's; None for all of them.
        lanes: the lane of each task; None where there is one lane.
        rows: the rows of each lane.
    """

    places: dict[str, Tensor | None]
    lanes: dict[str, str] | None = None
    rows: dict[str, Tensor] | None = None

    def split(self, states: Tensor) -> dict[str, Tensor]:
        """Each task's states, `[rows_t, length, hidden]`."""
        if self.lanes is None or self.rows is None:
            parts = dict.fromkeys(self.places, states)
        else:
            counts = [len(found) for found in self.rows.values()]
            slices = dict(zip(self.rows, states[: sum(counts)].split(counts), strict=True))
            parts = {task: slices[lane] for task, lane in self.lanes.items()}
        return {
            task: parts[task] if place is None else parts[task].index_select(0, place)
            for task, place in self.places.items()
        }


def _rows_of(tasks: Sequence[str], rows: Mapping[str, Tensor] | None, count: int, device: torch.device) -> Tensor:
    """The rows of a lane, each once; in rising order where it has several tasks."""
    if rows is None:
        return torch.arange(count, device=device)
    return rows[tasks[0]] if len(tasks) == 1 else torch.cat([rows[task] for task in tasks]).unique()

"""What Tune knows of a trial: an id, and the message that starts it.

Tune's own class of trials is made for trials that are stored, shown and restored. It asks each process for facts that nothing reads, looks
in Ray's head for the class that it runs, and makes folders: several milliseconds of a trial that may itself take ten.
"""

from __future__ import annotations

from typing import Any

from ray.tune import PlacementGroupFactory, Trainable
from ray.tune.experiment import Experiment, Trial


class TuneTrial(Trial):
    """A trial as Tune's loop handles it.

    Args:
        trainable: What runs it.
        request: What Ray is asked for.
        experiment: Tune's settings that all trials share.
        trial_id: Tune's id of it.
        message: What `TrialJob.to_json` wrote.
    """

    def __init__(
        self, trainable: type[Trainable], request: PlacementGroupFactory, experiment: Experiment, trial_id: str, message: str
    ) -> None:
        super().__init__(
            trainable.__name__,
            config={"trial": message},
            trial_id=trial_id,
            storage=experiment.storage,
            placement_group_factory=request,
            checkpoint_config=experiment.checkpoint_config,
            stub=True,  # or its class would be looked up
        )
        self._trainable = trainable

    @property
    def message(self) -> str:
        """The message that starts it."""
        return str(self.config["trial"])

    def get_trainable_cls(self) -> type[Trainable]:
        """The class that runs it."""
        return self._trainable

    def init_local_path(self) -> None:
        """Only name the folder: nothing is written to it."""
        name: Any = self.trial_id
        assert self.storage is not None, "an experiment has storage"
        self.relative_logdir = self.storage.trial_dir_name = name

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Take a process, without asking it for results that it has not got."""
        self.temporary_state.ray_actor = ray_actor

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Keep a result, without means and extremes of its numbers."""
        self.run_metadata.last_result = result

    def handle_error(self, exc: Any = None) -> None:
        """Count a failure, without writing files about it: the session has recorded the loss."""
        self.run_metadata.num_failures += 1

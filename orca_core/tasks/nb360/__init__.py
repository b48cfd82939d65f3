"""NAS-Bench-360 (Tu et al. 2022): ten tasks far from text and photographs, read from the files as they are published."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.files import ExpectedFile
from orca_core.tasks.nb360 import arrays, images
from orca_core.tasks.nb360.recipes import published
from orca_core.tasks.spec import TaskSpec


def _places(files: tuple[ExpectedFile, ...]) -> tuple[Path, ...]:
    return tuple(file.place for file in files)


BENCHMARK = "NAS-Bench-360, nb360.ml.cmu.edu"

VALID_IS_TEST = "train and validation are one, validation = test"

NB360_TASKS: tuple[TaskSpec, ...] = (
    TaskSpec(
        name="nb360/cifar100",
        summary="60000 photographs of 32 x 32 points, 100 classes",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.nb360.images:load_cifar100",
        recipes={
            "laptop": laptop_recipe(2, epochs=5, batch_size=64),
            "published": published(
                2, epochs=60, batch_size=32, accum=32, optimizer="sgd", lr=1e-4, weight_decay=1e-3, momentum=0.9, warmup=5, decay=200
            ),
        },
        files=partial(_places, images.CIFAR_FILES),
        licence="CC BY 4.0",
        source=BENCHMARK,
        expects=images.CIFAR_FILES,
        reference=VALID_IS_TEST,
    ),
    TaskSpec(
        name="nb360/spherical",
        summary="60000 photographs drawn on a sphere and rolled out, 60 x 60 points, 100 classes",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.nb360.images:load_spherical",
        recipes={
            "laptop": laptop_recipe(2, epochs=5, batch_size=64),
            "published": published(
                2, epochs=60, batch_size=32, accum=4, optimizer="adamw", lr=1e-4, weight_decay=0.1, momentum=0.999, warmup=5, decay=60
            ),
        },
        files=partial(_places, images.SPHERICAL_FILES),
        licence="CC BY-SA",
        source=BENCHMARK,
        expects=images.SPHERICAL_FILES,
        reference=VALID_IS_TEST,
    ),
    TaskSpec(
        name="nb360/ninapro",
        summary="3956 windows of muscle signals, 16 channels of 52 times, 18 gestures",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.nb360.arrays:load_ninapro",
        recipes={
            "laptop": laptop_recipe(2, epochs=8, batch_size=32),
            "published": published(
                2,
                epochs=60,
                batch_size=32,
                clip=1.0,
                optimizer="adam",
                lr=1e-4,
                weight_decay=1e-5,
                momentum=0.999,
                warmup=5,
                decay=60,
                align_epochs=100,
            ),
        },
        files=partial(_places, arrays.NINAPRO_FILES),
        licence="CC BY-ND",
        source=BENCHMARK,
        expects=arrays.NINAPRO_FILES,
        reference=VALID_IS_TEST,
    ),
)

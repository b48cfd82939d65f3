"""How long the commands take that people wait for, beside the goal of each.

    python benchmarks/commands.py [--rounds 5] [--planned 10000] [--recorded 500] [--only plan help]

Every command runs in a process of its own, again and again; the commands take turns, so that other work on the machine meets all of them.
Prints the medians of wall and processor seconds. Only on an idle machine does the wall time say something about a goal. The results that
are read are made up by `benchmarks/report.py`; nothing is trained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import yaml
from report import record

from sweeper.cli import GROUPS
from sweeper.results import Workspace

NEEDS_NAME = ("status", "best", "compare", "findings", "importance", "report")


@dataclass
class Command:
    """A command with its times.

    Args:
        arguments: What stands after `sweeper`.
        goal: Seconds of wall time, where there is a goal.
        wall, processor: Seconds of each round.
    """

    arguments: tuple[str, ...]
    goal: float | None = None
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Run it once, and keep the seconds."""
        before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sweeper", *self.arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        after = getrusage(RUSAGE_CHILDREN)
        self.wall.append(time.perf_counter() - began)
        self.processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def line(self) -> str:
        """Its medians, with the goal."""
        goal = f"{'' if self.goal is None else f'(goal {self.goal:g} s)':12}"
        return f"{median(self.wall):7.2f} s wall {goal} {median(self.processor):7.2f} s processor   sweeper {' '.join(self.arguments)}"


def grid(trials: int) -> Mapping[str, object]:
    """A space of so many trials, rounded up: 20 settings of frozen and aligned parts, learning rates, 5 seeds."""
    rates = [round(1e-4 * 1.001**number, 9) for number in range(-(-trials // 100))]
    space = {"freezing": {"grid": ["full", "frozen-body", "layernorm", "bias", "frozen-both"]}, "align.epochs": {"grid": [0, 5, 10, 20]}}
    return {"name": "grid", "base": {"task": "digits"}, "space": {**space, "finetune.lr": {"grid": rates}}, "seeds": 5}


def candidates(trials: int) -> Mapping[str, object]:
    """A space of so many trials, rounded up: four arms of random candidates, each with settings of its own."""
    space = {"freezing": {"grid": ["full", "frozen-body"]}, "align.epochs": {"grid": [0, 10]}}
    tuned = {"finetune.lr": {"loguniform": [1e-4, 1e-1]}, "finetune.weight_decay": {"loguniform": [1e-4, 1e-1]}}
    search = {"algorithm": "random", "trials": -(-trials // 4)}
    return {"name": "candidates", "base": {"task": "digits"}, "space": {**space, **tuned}, "seeds": 1, "search": search}


def make_commands(folder: Path, planned: int, recorded: int) -> list[Command]:
    """The commands, and what they read."""
    for space in (grid(planned), candidates(planned)):
        (folder / f"{space['name']}.yaml").write_text(yaml.safe_dump(dict(space)))
    record(Workspace(folder / "results"), recorded)
    name, query = "large", "select freezing, avg(test_error) as error from trials group by all"
    of_sweep = {
        "compare": ("--factor", "freezing", "--baseline", "full"),
        "report": ("-o", "page.html"),
    }
    return [
        Command(("--help",), goal=0.3),
        *(Command((command, "--help"), goal=0.3) for commands in GROUPS.values() for command in commands if command != "help"),
        Command(("plan", "grid.yaml"), goal=4.0),
        Command(("plan", "candidates.yaml"), goal=4.0),
        Command(("query", query)),
        *(Command((command, name, *of_sweep.get(command, ()))) for command in NEEDS_NAME),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--planned", type=int, default=10_000, help="trials of the spaces that are planned")
    parser.add_argument("--recorded", type=int, default=500, help="trials of the sweep whose results are read")
    parser.add_argument("--only", nargs="*", default=[], help="words of which a command must have one: plan, help, status, ...")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        commands = make_commands(Path(place), options.planned, options.recorded)

        def is_wanted(command: Command) -> bool:
            return not options.only or any(word in part for word in options.only for part in command.arguments[:2])

        wanted = [command for command in commands if is_wanted(command)]
        for _ in range(options.rounds):
            for command in wanted:
                command.run(Path(place))
        helps = [command for command in wanted if command.arguments[-1] == "--help" and len(command.arguments) == 2]
        for command in wanted:
            if command not in helps:
                print(command.line())
        if helps:
            slowest = max(helps, key=lambda command: median(command.wall))
            print(f"{slowest.line()}   (the slowest of the help texts of {len(helps)} commands)")


if __name__ == "__main__":
    main()

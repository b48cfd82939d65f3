"""Does `sweeper explain` name the right cause? Sweeps whose cause was planted, drawn again and again from a pool of real trials.

    python benchmarks/explain.py                      # the analysis of the pool in benchmarks/explain_pool.csv: seconds
    python benchmarks/explain.py --compute FOLDER     # first computes what the pool lacks, in this process: minutes if it is empty
    python benchmarks/explain.py --simulated 1000     # normal errors instead, for the error rate of the rule

A pool has 40 seeds of every arm. Each planted sweep is a draw of 5 seeds from it, without replacement within the sweep; sweeps share seeds,
so they are not independent. `explain` sees the tables of a sweep and nothing else. In the null pools nothing is useful, and any cause that
is named is false. Exit code 1 if the planted cause is named in less than 95 % of the sweeps of a kind, or more than 5 % of null sweeps name
one. How often it is named alone is printed, too: what was not planted is next to nothing in the other arms, but not exactly nothing.

What is planted, in bodies one layer deep and 32 wide, read through an embedder that a file gives, so that all arms of a seed read the same:

    attention, ffn   The part is copied from a body that was trained on the task, with embedder and predictor, from random weights; the rest
                     of the checkpoint is drawn anew for every seed. One fixed draw would be a cause of its own, as it is better or worse
                     than the draws it is compared with. The tasks: do two tokens have the same sign, and do two directions of one token?
    steps            The embedder drowns its signal in eight noisy coordinates. Every objective takes them away, as Adam moves as fast for
                     all of them.
    dispersion       The same by gradient descent, and a body whose last LayerNorm is nearly shut: the task's loss has next to no gradient.
    distance         The embedder is far from where the body can read it, by the same offset for all inputs. The classes are as tidy as they
                     can be, so dispersion does not move it; the distance to features of the embedder without the offset does.
    start            A drowned embedder against a good one, and steps that are too small to change that one.
    null-parts       A checkpoint of random weights, drawn anew for every seed.
    null-chain       Each arm of the chain is the naive arm, with seeds of its own.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from sweeper.analysis import explain

SEEDS, SWEEP, SWEEPS = 40, 5, 100
POOL = Path(__file__).with_name("explain_pool.csv")

Knobs = Mapping[str, Any]
Cells = Mapping[str, Any]


KnobsOf = Callable[[str, int], Knobs]
"""Arm, seed -> the knobs of the trial."""


@dataclass(frozen=True)
class Truth:
    """A planted truth.

    Args:
        causes: Beginning of a gap's subject -> the causes that are right there; no causes where none is.
        arms: Name -> what its rows say in the tables.
    """

    causes: Mapping[str, tuple[str, ...]]
    arms: Mapping[str, Cells]


REST = ("layernorm", "embeddings", "other")
PLAYERS: Mapping[str, tuple[str, ...]] = {"attention": ("attention",), "ffn": ("ffn",), "rest": REST}
KEEPS = {
    "none": (),
    **{name: PLAYERS[name] for name in PLAYERS},
    "attention+ffn": ("attention", "ffn"),
    "attention+rest": ("attention", *REST),
    "ffn+rest": ("ffn", *REST),
    "all": ("attention", "ffn", *REST),
}
PART_ARMS: Mapping[str, Cells] = {
    name: {
        "body_weights": "pretrained" if parts else "random",
        "body_keep": None if not parts else "all" if name == "all" else "+".join(parts),
    }
    for name, parts in KEEPS.items()
}
# ------------------------------------------------------------------------------------------------------------------- planted bodies

WIDTH, CLASSES_SEED = 32, 0
TINY = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 40}
QUIET = 0.03
"""Gain of the last LayerNorm of a body through which gradients hardly pass."""


def _fresh_body(seed: int, spread: float) -> Any:
    import torch
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(seed)
    return RobertaModel(RobertaConfig(hidden_size=WIDTH, type_vocab_size=1, initializer_range=spread, **TINY), add_pooling_layer=False)


def _save(model: Any, folder: Path) -> str:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return f"hf:{folder}"


def _write_task(folder: Path, name: str) -> dict[str, Any]:
    """Write a task of two classes, 5 % of whose labels are wrong; gives the knobs that read it."""
    import numpy as np

    rng = np.random.default_rng(CLASSES_SEED)
    n, size = 1500, 8
    signs = rng.choice([-1, 1], size=(n, 2))
    axes = rng.normal(size=(2, size))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    if name == "two-tokens":  # is the sign of the first token that of the second?
        x = 1.5 * signs[:, :, None] * axes + rng.normal(size=(n, 2, size)) * 0.4
        y, tokens = signs[:, 0] == signs[:, 1], 2
    elif name == "one-token":  # are the signs along two directions of a token the same? The token comes twice
        x = 1.5 * (signs[:, :1] * axes[0] + signs[:, 1:] * axes[1]) + rng.normal(size=(n, size)) * 0.4
        x = np.repeat(x[:, None], 2, axis=1) + rng.normal(size=(n, 2, size)) * 0.3
        y, tokens = signs[:, 0] == signs[:, 1], 2
    else:  # on which side of a plane?
        axis = rng.normal(size=16)
        axis /= np.linalg.norm(axis)
        x = rng.normal(size=(n, 1, 16)) + 1.3 * signs[:, :1, None] * axis
        y, tokens = signs[:, 0] == 1, 1
        np.save(folder / "axis.npy", axis)
    wrong = rng.random(n) < 0.05
    path = folder / f"{name}.npz"
    np.savez(path, x=x.reshape(n, 1, -1).astype("float32"), y=np.where(wrong, 1 - y, y).astype("int64"))
    return {"task": f"npz:{path}", "recipe": "laptop", "embedder.target_seq_len": tokens}


TUNING: Knobs = {"freezing": "frozen-both", "finetune.epochs": 5, "finetune.lr": 0.05, "finetune.batch_size": 128, "align.epochs": 0}
"""The predictor alone trains after alignment, so what it reads decides."""


def _part_of(name: str) -> str:
    """The part of `body.keep` that a tensor of the body belongs to."""
    if "LayerNorm" in name:
        return "layernorm"
    return "attention" if ".attention." in name else "ffn" if ".layer." in name else "embeddings"


def _train(folder: Path, task: Knobs, train: Sequence[str], spread: float, epochs: int) -> tuple[dict[str, Any], str]:
    """Train a body on a task; gives its tensors, and a file with the embedder it was trained with."""
    from safetensors.torch import save_file

    from orca_core import Store, resolve_config, run_trial, tuned_model

    name = f"{Path(task['task']).stem}-{'-'.join(train)}"
    body = _save(_fresh_body(100, spread), folder / f"untrained-{name}")
    schedule = {"freezing": [{"train": list(train), "epochs": epochs}], "finetune.epochs": epochs, "finetune.lr": 0.003}
    config = resolve_config({**task, **schedule, "body.name": body, "embedder.init": "random", "align.epochs": 0})
    store = Store(str(folder / "trained"))
    result = run_trial(config, store, lambda row: None, keep="best")
    print(f"trained {', '.join(train)}: test error {result.test_error:.3f}", flush=True)
    model = tuned_model(config, store).model
    file = folder / f"{name}.safetensors"
    save_file({key: value.detach().contiguous() for key, value in model.embedder.state_dict().items()}, file)
    return dict(model.body.state_dict()), str(file)


def _planted_part(folder: Path, part: str) -> KnobsOf:
    """A body whose only useful part is known; the rest of it is drawn anew for every seed."""
    task = _write_task(folder, "two-tokens" if part == "attention" else "one-token")
    spread = 0.1 if part == "attention" else 0.05
    trained, embedder = _train(folder, task, ["embedder", part if part == "attention" else "non-attn", "predictor"], spread, 25)

    def knobs(arm: str, seed: int) -> Knobs:
        path = folder / f"{part}-{seed}"
        if not path.exists():
            model = _fresh_body(1000 + seed, spread)
            tensors = model.state_dict()
            for name in (name for name in tensors if _part_of(name) == part):
                (source,) = [key for key in trained if name.endswith(key) or key.endswith(name)]
                tensors[name].copy_(trained[source])
            _save(model, path)
        return {**task, **TUNING, "embedder.weights": embedder, "body.name": f"hf:{path}", "body.keep": list(KEEPS[arm])}

    return knobs


def _null_parts(folder: Path) -> KnobsOf:
    """A checkpoint of random weights."""
    task = _write_task(folder, "two-tokens")
    _, embedder = _train(folder, task, ["embedder", "attention", "predictor"], 0.1, 25)

    def knobs(arm: str, seed: int) -> Knobs:
        path = folder / f"null-{seed}"
        if not path.exists():
            _save(_fresh_body(5000 + seed, 0.1), path)
        return {**task, **TUNING, "embedder.weights": embedder, "body.name": f"hf:{path}", "body.keep": list(KEEPS[arm])}

    return knobs


# ----------------------------------------------------------------------------------------------------------------- planted embedders


def _write_embedders(folder: Path) -> dict[str, str]:
    """Embedders of the task `one-side`: a good one, ones that drown its signal in noise, and one with an offset; and the features of the
    good one as a proxy."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    axis = torch.tensor(np.load(folder / "axis.npy"), dtype=torch.float32)
    draws = torch.Generator().manual_seed(3)
    signs, pattern = (torch.randn(WIDTH, generator=draws).sign() for _ in range(2))
    projection = torch.randn(WIDTH, len(axis), generator=draws) * 0.3
    projection -= (projection @ axis)[:, None] * axis  # the noisy coordinates say nothing about the classes
    projection[NOISY:] = signs[NOISY:, None] * axis * 0.7
    good = {
        "projection.weight": projection[:, None].contiguous(),
        "projection.bias": torch.cat([torch.zeros(NOISY), pattern[NOISY:]]),
        "norm.weight": torch.cat([torch.full((NOISY,), 0.05), torch.ones(WIDTH - NOISY)]),
        "norm.bias": torch.zeros(WIDTH),
        "positions": torch.zeros(1, WIDTH),
    }

    def noisy(gain: float) -> dict[str, Any]:
        return {**good, "norm.weight": torch.cat([torch.full((NOISY,), gain), torch.ones(WIDTH - NOISY)])}

    offset = {**good, "norm.bias": 25.0 * torch.randn(WIDTH, generator=draws).sign()}
    for name, tensors in {"good": good, "noisy": noisy(10.0), "drowned": noisy(30.0), "offset": offset}.items():
        save_file(tensors, folder / f"{name}.safetensors")
    with np.load(folder / "one-side.npz") as data:
        x, y = torch.tensor(data["x"]), data["y"]
    tokens = x[:, 0] @ projection.T + good["projection.bias"]
    features = torch.nn.functional.layer_norm(tokens, (WIDTH,), good["norm.weight"], good["norm.bias"])
    np.savez(folder / "good-features.npz", x=features.numpy(), y=y)
    return {name: str(folder / f"{name}.safetensors") for name in ("good", "noisy", "drowned", "offset")}


NOISY = 8
"""Number of noisy coordinates."""


def _chain(folder: Path, name: str) -> KnobsOf:
    """A planted link of the chain, or none."""
    task = _write_task(folder, "one-side")
    files = _write_embedders(folder)
    quiet = _fresh_body(0, WIDTH**-0.5)
    quiet.encoder.layer[0].output.LayerNorm.weight.data.fill_(QUIET)
    body = _save(quiet, folder / "quiet")
    proxy = {"proxy": f"npz:{folder}/good-features.npz", "align.lr_steps": [], "align.class_samples": 256}
    embedder, more = LINKS[name]

    def knobs(arm: str, seed: int) -> Knobs:
        objective, _, start = arm.partition(" @ ")
        steps = {} if objective == "naive" or name == "null-chain" else {**proxy, "align.epochs": STEPS, "align.objective": objective}
        own = {"seed": 1000 * (1 + list(TRUTHS[name].arms).index(arm)) + seed} if name == "null-chain" else {}
        file = files[start.removesuffix(".safetensors") or embedder]
        return {**task, **TUNING, **more, **steps, **own, "body.name": body, "embedder.weights": file}

    return knobs


STEPS = 20
"""Length of alignment."""

_DESCENT = {"align.optimizer": "sgd"}
LINKS: Mapping[str, tuple[str, Knobs]] = {
    "steps": ("drowned", {"align.lr": 0.15, "finetune.epochs": 8}),
    "dispersion": ("noisy", {**_DESCENT, "align.lr": 0.094}),
    "distance": ("offset", {**_DESCENT, "align.lr": 0.2, "finetune.lr": 0.01}),
    "start": ("", {**_DESCENT, "align.lr": 1e-4}),
    "null-chain": ("noisy", {}),
}
"""Plant -> the embedder that all arms start from, and the knobs of its steps."""


def _arms(distance: str, start: str = "") -> dict[str, Cells]:
    """The arms of a chain. A start is part of their names where there are several."""
    return {
        f"{objective} @ {start}" if start else objective: {
            "embedder_weights": start or None,
            "align_epochs": 0 if objective == "naive" else STEPS,
            "align_objective": None if objective == "naive" else objective,
        }
        for objective in ("naive", "none", "dispersion", distance)
    }


_GOOD, _DROWNED = "good.safetensors", "drowned.safetensors"
TRUTHS: Mapping[str, Truth] = {
    "attention": Truth({"": ("attention",)}, PART_ARMS),
    "null-parts": Truth({"": ()}, PART_ARMS),
    "distance": Truth({"": ("closeness to the proxy",)}, _arms("coral")),
    "dispersion": Truth({"": ("tidier classes",)}, _arms("l2")),
    "steps": Truth({"": ("more steps",)}, _arms("l2")),
    "null-chain": Truth({"": ()}, _arms("coral")),
    "ffn": Truth({"": ("ffn",)}, PART_ARMS),
    "start": Truth(
        {f"align.objective coral, start file {_GOOD}": ("the start",)},
        {f"naive @ {_DROWNED}": _arms("coral", _DROWNED)[f"naive @ {_DROWNED}"], **_arms("coral", _GOOD)},
    ),
}


def _knobs_of(folder: Path, name: str) -> KnobsOf:
    if name in LINKS:
        return _chain(folder, name)
    return _null_parts(folder) if name == "null-parts" else _planted_part(folder, name)


# ------------------------------------------------------------------------------------------------------------------------- the pool

COLUMNS = ("plant", "arm", "seed", "test_error", "test_samples")


def compute(folder: Path, pool: Path, names: Sequence[str]) -> None:
    """Run the trials of the pool that its file does not have, in this process, and append them."""
    import torch

    from orca_core import Store, resolve_config, run_trial

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    known = {(row["plant"], row["arm"], int(row["seed"])) for row in read_pool(pool)}
    with pool.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(COLUMNS)
        for name in names:
            arms = TRUTHS[name].arms
            todo = [(arm, seed) for seed in range(SEEDS) for arm in arms if (name, arm, seed) not in known]
            knobs = _knobs_of(folder.resolve(), name) if todo else None
            for arm, seed in todo:
                assert knobs is not None
                config = resolve_config({"seed": seed, **knobs(arm, seed)})
                with tempfile.TemporaryDirectory() as store:
                    result = run_trial(config, Store(store), lambda row: None)
                writer.writerow([name, arm, seed, repr(result.test_error), result.test_samples])
                file.flush()


def read_pool(pool: Path) -> list[dict[str, str]]:
    """The rows of a pool; none if it does not exist yet."""
    if not pool.exists():
        return []
    with pool.open(newline="") as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------------------------------------------------------- the analysis


def table_of(name: str, rows: Mapping[tuple[str, int], Mapping[str, str]], seeds: Sequence[int]) -> pa.Table:
    """What the results of a sweep over some seeds of the pool would say."""
    return pa.Table.from_pylist(
        [
            {
                **{"sweep": name, "trial": f"{arm}-{seed}", "arm": arm, "task": "planted", "seed": seed, "status": "COMPLETE"},
                **{"test_error": float(rows[arm, seed]["test_error"]), "test_samples": int(rows[arm, seed]["test_samples"])},
                **{"score": "1-accuracy", **cells},
            }
            for arm, cells in TRUTHS[name].arms.items()
            for seed in seeds
        ]
    )


def analyse(pool: Path, sweeps: int, size: int) -> bool:
    """Print what `explain` names in planted sweeps; gives whether all rates are what they should be."""
    rows: dict[str, dict[tuple[str, int], Mapping[str, str]]] = defaultdict(dict)
    for row in read_pool(pool):
        rows[row["plant"]][row["arm"], int(row["seed"])] = row
    is_right = True
    for name, of_plant in rows.items():
        truth, random = TRUTHS[name], Random(name)
        seeds = sorted({seed for _, seed in of_plant if all((arm, seed) in of_plant for arm in truth.arms)})
        means = ", ".join(f"{arm} {sum(float(of_plant[arm, seed]['test_error']) for seed in seeds) / len(seeds):.3f}" for arm in truth.arms)
        print(f"{name}: {len(seeds)} seeds of each arm; mean test errors: {means}")
        if len(seeds) < size:
            is_right = False
            continue
        said: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for _ in range(sweeps):
            for row in explain(table_of(name, of_plant, random.sample(seeds, size))).to_pylist():
                if row["term"] == "gap":
                    said[row["subject"]].append(tuple(row["causes"]))
        for subject, causes in said.items():
            expected = next(right for start, right in truth.causes.items() if subject.startswith(start))
            is_right &= _report(subject, causes, expected)
    return is_right


def _report(subject: str, causes: Sequence[tuple[str, ...]], expected: tuple[str, ...]) -> bool:
    named = sum(set(expected) <= set(one) for one in causes)
    alone = sum(set(expected) == set(one) for one in causes)
    false = sum(bool(set(one) - set(expected)) for one in causes)
    if expected:
        print(
            f"  {subject}: {' and '.join(expected)} named in {named} of {len(causes)}, and nothing else in {alone}; another one in {false}"
        )
        return named >= 0.95 * len(causes)
    print(f"  {subject}: a cause is named falsely in {false} of {len(causes)}")
    return false <= 0.05 * len(causes)


SIMULATED = (
    ("attention", {}),
    ("attention", {"attention": 1.5}),
    ("attention", {"attention": 1.5, "ffn": 3.0}),
    ("distance", {}),
    ("distance", {"none": 1.5}),
    ("distance", {"none": 1.5, "coral": 3.0}),
)
"""Plant whose arms are taken, and what is true: part or rung -> by how many standard deviations of an error it lowers the error."""


def simulate(count: int) -> bool:
    """Print how often a cause is named that has no effect, for normal errors; gives whether that is at most 5 %, up to chance."""
    import numpy as np

    rng, is_right = np.random.default_rng(0), True
    print("Named though it has no effect, in % of sweeps; named where it has one, in %, smallest effect first.")
    for name, effects in SIMULATED:
        truth = TRUTHS[name]
        means = {arm: -sum(size for what, size in effects.items() if _has(name, arm, what)) for arm in truth.arms}
        right = {_CAUSE.get(what, what) for what in effects}
        for size in (3, 5, 10):
            false, hits = 0, dict.fromkeys(right, 0)
            for _ in range(count):
                shared = rng.normal(size=size)  # of a seed, in all of its arms
                rows = {
                    (arm, seed): {"test_error": str(0.5 + 0.02 * (means[arm] + shared[seed] + rng.normal())), "test_samples": "10000"}
                    for arm in truth.arms
                    for seed in range(size)
                }
                (gap,) = [row for row in explain(table_of(name, rows, range(size))).to_pylist() if row["term"] == "gap"]
                named = set(gap["causes"])
                false += bool(named - right)
                hits = {cause: number + (cause in named) for cause, number in hits.items()}
            is_right &= false / count <= 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5
            words = ", ".join(f"{cause} {100 * number / count:.1f}" for cause, number in hits.items()) or "-"
            of = f"{'parts' if name == 'attention' else 'chain'}, true: {effects or 'nothing'}, {size} seeds"
            print(f"  {of}: false {100 * false / count:.1f}; {words}", flush=True)
    return is_right


_CAUSE = {"none": "more steps", "dispersion": "tidier classes", "coral": "closeness to the proxy"}


def _has(name: str, arm: str, what: str) -> bool:
    """Whether an arm has a part; or is the rung at which a link ends, or one after it."""
    arms = list(TRUTHS[name].arms)
    return what in KEEPS[arm] if name == "attention" else arms.index(arm) >= arms.index(what)


def main() -> int:
    """Compute the pool if asked to, and analyse it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", type=Path, metavar="FOLDER", help="compute what the pool lacks; bodies and tasks are written here")
    parser.add_argument("--pool", type=Path, default=POOL, help="file of the pool; default: the one beside this file")
    parser.add_argument("--only", nargs="+", choices=tuple(TRUTHS), default=tuple(TRUTHS), help="compute these plants alone")
    parser.add_argument("--sweeps", type=int, default=SWEEPS, help="planted sweeps of each kind")
    parser.add_argument("--seeds", type=int, default=SWEEP, help="seeds of a planted sweep")
    parser.add_argument("--simulated", type=int, metavar="N", help="simulate N sweeps of each kind with normal errors, and nothing else")
    arguments = parser.parse_args()
    if arguments.simulated:
        return 0 if simulate(arguments.simulated) else 1
    if arguments.compute is not None:
        compute(arguments.compute, arguments.pool, arguments.only)
    return 0 if analyse(arguments.pool, arguments.sweeps, arguments.seeds) else 1


if __name__ == "__main__":
    sys.exit(main())

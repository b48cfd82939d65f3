# %% [markdown]
# # From your own data to a verdict
#
# A table of your own becomes a task without any code. Here it is one that scikit-learn ships, 569 biopsies of the breast with 30
# measurements each, written as the CSV file that you would have. The question: does the transformer's body have to be trained on
# them, or do an embedder and a predictor round a frozen body do as well?

# %%
import csv

from sklearn.datasets import load_breast_cancer

from sweeper import Workspace, load_space, plan, run
from sweeper.analysis import effects, findings

data = load_breast_cancer()
with open("biopsies.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow([*data.feature_names, "label"])
    table.writerows([*row, data.target_names[label]] for row, label in zip(data.data, data.target, strict=True))

# %% [markdown]
# ## The question, as a sweep
#
# `sweeper tasks csv:biopsies.csv` shows what becomes of each column. The space below could as well be a YAML file for `sweeper run`. The
# pretraining and the epochs are kept short, so that this script runs in seconds: leave out `pretrain` and `finetune` to ask in earnest.

# %%
space = load_space(
    {
        "name": "biopsies",
        "base": {
            "task": "csv:biopsies.csv",
            "body": "mini-roberta",
            "align.epochs": 0,
            "pretrain": {"epochs": 1, "fraction": 0.1},
            "finetune": {"epochs": 4, "warmup_epochs": 0, "decay_epochs": None},
        },
        "space": {"freezing": {"grid": ["full", "frozen-body"]}},
        "seeds": 3,
        "question": {"factor": "freezing", "baseline": "full"},
    }
)
print(len(plan(space).trials), "trials")
workspace = Workspace("results")
code = run(space, workspace)

# %% [markdown]
# ## Floors
#
# `run` has also computed what models without a transformer reach on the same split. An arm that does not beat the best of them
# shows no transfer.

# %%
floors = workspace.sql("select model, valid_error, test_error from floors where task = 'csv:biopsies.csv' order by valid_error")
for row in floors.rows():
    print(f"{row['model']:<12} {row['test_error']:.3f}")

# %% [markdown]
# ## The verdict
#
# Arms are compared seed by seed, and the verdict is `helps`, `hurts`, `no-difference` or `undecided`, with the number of seeds that would
# decide. In the shell: `sweeper compare biopsies`.

# %%
trials = workspace.sql("from trial_status where sweep = 'biopsies' and in_plan").arrow()
(row,) = effects(trials, "freezing", "full").to_pylist()
print(f"A frozen body: {row['verdict']}. Error {row['level_mean']:.3f} against {row['baseline_mean']:.3f}, ", end="")
print(f"difference {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] over {row['n']} seeds.")

# %% [markdown]
# In words, and beside the floors; in the shell: `sweeper findings biopsies`.

# %%
answers = findings(trials, floors=workspace.sql("from floors").arrow()).to_pylist()
for answer in answers:
    print(f"{answer['question']} {answer['verdict'].capitalize()}.\n  {answer['text']}\n  It would change with {answer['would_change']}")

# %% [markdown]
# # The Python API in one go
#
# One trial, a sweep, SQL, and what the trials say. `docs/api.md` has all of it, function by function.

# %%
from orca_core import Store, resolve_config, run_trial
from sweeper import Workspace, load_space, plan, run
from sweeper.analysis import effects, findings, importance

# %% [markdown]
# ## One trial
#
# `resolve_config` completes your settings by the task's recipe and reports all errors at once. `run_trial` computes the trial, stage by
# stage; what is in the store already is not computed again. Rows come as it goes.

# %%
SHORT = {
    "task": "mnist1d",
    "train_samples": 200,
    "pretrain": {"epochs": 1, "fraction": 0.1},
    "align.proxy_samples": 200,
    "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None},
}
workspace = Workspace("results")
config = resolve_config({**SHORT, "align.epochs": 2})
rows = []
result = run_trial(config, Store("results/artifacts"), rows.append)
print(f"valid {result.valid_error:.3f}, test {result.test_error:.3f}, best epoch {result.best_epoch}")
print("distance by epoch of alignment:", [round(row.distance, 2) for row in rows if row.TABLE == "metrics" and row.stage == "align"])

# %% [markdown]
# ## A sweep
#
# `load_space` takes the name of a space, a file or a dict; `plan` says what would be computed; `run` computes what is missing.

# %%
space = load_space(
    {
        "name": "python-api",
        "base": SHORT,
        "space": {"freezing": {"grid": ["full", "frozen-body"]}, "align.epochs": {"grid": [0, 2]}},
        "seeds": 2,
        "floors": False,
    }
)
planned = plan(space)
print(len(planned.trials), "trials;", planned.stage_counts)
code = run(space, workspace)

# %% [markdown]
# ## SQL
#
# The tables are Parquet, and an answer converts to pandas, polars or Arrow: `.df()`, `.pl()`, `.arrow()`, `.rows()`.

# %%
answer = workspace.sql(
    """
    select freezing, align_epochs, avg(test_error) as error, count(*) as seeds
    from trials where sweep = 'python-api' and task = 'mnist1d'
    group by all order by error
    """
)
print(answer)

# %% [markdown]
# ## What the trials say
#
# The same numbers as `sweeper compare`, `importance` and `findings`. They take every planned trial, so that failed ones are known.

# %%
trials = workspace.sql("from trial_status where sweep = 'python-api' and in_plan").arrow()
for row in effects(trials, "align.epochs", 0).to_pylist():
    print(f"align.epochs {row['level']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], {row['verdict']}")
for row in importance(trials, varied=["freezing", "align_epochs"]).to_pylist():
    print(f"{' x '.join(row['factors'])}: {row['share']:.0%} of the variance")
for row in findings(trials).to_pylist():
    print(f"{row['question']} {row['verdict']}")

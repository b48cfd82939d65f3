# %% [markdown]
# # Reproduce a figure
#
# Figure 2 of García-de-Herreros et al. 2024 has the error by epoch of fine-tuning, a curve for each proxy and one without alignment. This
# script draws it from a sweep so small that it takes seconds: it shows how it is done, not what is found. The laptop twin of the study,
# `proxies-text-laptop`, takes minutes; the study itself, `proxies-text`, takes GPUs. Only the name changes.

# %%
from pathlib import Path

from sweeper import Workspace, load_space, run
from sweeper.show.figures import find_figure, read_tables, render

workspace = Workspace("results")

# %% [markdown]
# The sweep: one task, aligned to a real proxy, to noise with the same moments, or not at all.

# %%
SMALL = {
    "task": "mnist1d",
    "train_samples": 200,
    "pretrain": {"epochs": 1, "fraction": 0.1},
    "align.proxy_samples": 200,
    "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None},
}
space = load_space(
    {
        "name": "small-proxies",
        "base": SMALL,
        "space": {
            "align.epochs": {"grid": [0, 2]},
            "proxy": {"grid": ["pydoc", "noise-matched:pydoc"], "when": {"align.epochs": 2}},
        },
        "seeds": 2,
        "question": {"factor": "proxy", "baseline": "none"},
        "floors": False,
    }
)
code = run(space, workspace)

# %% [markdown]
# For the study of the paper instead: `run(load_space("proxies-text"), workspace)`, and its name in the next cell.
#
# A figure is read from the tables as numbers, then drawn. In the shell: `sweeper plot small-proxies proxies`.

# %%
figure = find_figure("proxies")
data = figure.read(read_tables(workspace, "small-proxies"))
Path("small-proxies.svg").write_bytes(render(figure, data, "svg"))
Path("small-proxies.pdf").write_bytes(render(figure, data, "pdf"))
print(data.caption)

"""The questions that `findings` asks of a sweep, in the order in which they are answered.

Each is a function from the evidence to findings: none if the sweep did not vary what the question is about.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sweeper.analysis.answers import (
    DEPENDS,
    NO,
    UNFAIR,
    YES,
    Evidence,
    Finding,
    Statement,
    levels_overall,
    overall,
    spell_level,
    state_effects,
    summarise,
    what_would_change,
)
from sweeper.analysis.associations import RankAssociation, distance_against_error, find_trends
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.factors import Row, cell
from sweeper.analysis.fairness import OTHER_MACHINES
from sweeper.analysis.paired import HELPS, HURTS, UNDECIDED, as_number, holm, paired_t
from sweeper.analysis.regret import RANKINGS, Regret, find_regrets
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.results.store import results_option

ALPHA = 0.05
"""Error rate of each question's family of verdicts."""

Question = Callable[[Evidence], Iterator[Finding]]


def _command(evidence: Evidence, factor: str, baseline: Any, where: str | None = None, more: str = "") -> str:
    level = shlex.quote(spell_level(baseline))
    here = results_option(evidence.results)
    only = f" --where {_quote(where)}" if where else ""
    return f"sweeper compare {shlex.quote(evidence.sweep.name)}{here} --factor {factor} --baseline {level}{only}{more}"


def _quote(sql: str) -> str:
    """SQL as an argument of a shell command; in double quotes where these change nothing, since SQL is full of single ones."""
    return shlex.quote(sql) if set(sql) & set('"$`\\!') else f'"{sql}"'


def _one_of(tasks: Iterable[Any]) -> str:
    """A condition in SQL: the task is one of these."""
    quoted = ("'" + str(task).replace("'", "''") + "'" for task in sorted(tasks, key=str))
    return f"task in ({', '.join(quoted)})"


def _finding(name: str, question: str, comparison: Comparison, query: str, subject: str = "it") -> Finding:
    statements = state_effects(comparison)
    by_level = levels_overall(comparison.effects)
    return Finding(name, question, overall(statements), statements, query, what_would_change(comparison.effects), by_level, subject)


def embedder_training(evidence: Evidence) -> Iterator[Finding]:
    """Does embedder training help, in 1D, in 2D? Figure 2 of the ablation paper."""
    if "align_epochs" not in evidence.varied or 0 not in evidence.levels("align_epochs"):
        return
    kinds = evidence.kinds()
    for kind, tasks in kinds.items():
        where = _one_of(tasks) if len(kinds) > 1 else None
        if comparison := evidence.compare("align.epochs", 0, where=where):
            query = _command(evidence, "align.epochs", 0, where)
            yield _finding(f"embedder-training-{kind.split()[1].lower()}", f"Does training the embedder help {kind}?", comparison, query)


def proxy_matters(evidence: Evidence) -> Iterator[Finding]:
    """Does the proxy matter? Figure 2 of the ablation paper."""
    by_baseline: dict[Any, set[Any]] = defaultdict(set)
    for task in {row.get("task") for row in evidence.arms}:
        proxies = [str(row["proxy"]) for row in evidence.arms if row.get("task") == task and row.get("proxy") is not None]
        if len(set(proxies)) > 1:
            by_baseline[min(set(proxies), key=lambda proxy: (*_is_control(proxy), -proxies.count(proxy), proxy))].add(task)
    alpha = ALPHA / max(1, len(by_baseline))
    for baseline, tasks in sorted(by_baseline.items(), key=str):
        where, more = "proxy is not null", ""
        if len(by_baseline) > 1:
            where, more = f"{where} and {_one_of(tasks)}", f" --alpha {alpha:g}"
        if comparison := evidence.compare("proxy", baseline, where=where, alpha=alpha):
            question = f"Does the proxy matter (others against {baseline})?"
            yield _finding("proxy", question, comparison, _command(evidence, "proxy", baseline, where, more))


def _is_control(proxy: str) -> tuple[bool, bool]:
    """Sorts real proxies before those with a suffix, and these before noise."""
    return proxy.startswith("noise"), "+" in proxy


def closer_proxy(evidence: Evidence) -> Iterator[Finding]:
    """Does a closer proxy help?"""
    rows = [row for row in evidence.arms if row.get("proxy_distance") is not None]
    if "proxy" not in evidence.varied:
        return
    distances = {row["trial"]: row["proxy_distance"] for row in rows if row.get("trial")}
    apart = [column for column in evidence.varied if column != "proxy"]
    found = distance_against_error(rows, distances, pair_by=evidence.sweep.pair_by, apart=apart)
    if found:
        question = "Does a proxy that is closer before any training go with a lower error?"
        sql = "select task, seed, proxy, proxy_distance, test_error from trials"
        yield _associations("closer-proxy", question, found, _sql(evidence, sql, "proxy is not null"), "four or more proxies")


def nearly_best_proxy(evidence: Evidence) -> Iterator[Finding]:
    """Does a ranking of proxies before any training put a proxy first that is nearly the best? One finding for each ranking."""
    if "proxy" not in evidence.varied:
        return
    apart = [column for column in evidence.varied if column != "proxy"]
    for ranking in RANKINGS:
        by_k = {k: find_regrets(evidence.arms, ranking, k, pair_by=evidence.sweep.pair_by, apart=apart) for k in (1, 2)}
        if not (first := by_k[1]):
            continue
        tasks = [task for task in first if task is not None]
        adjusted, _ = holm([float("nan") if (p := first[task].p) is None else p for task in tasks])
        p_of = dict(zip(tasks, map(as_number, adjusted), strict=True)) | ({None: first[None].p} if None in first else {})
        statements = []
        for task in (*tasks, *([None] if None in first else [])):
            regrets = [of_k[task] for of_k in by_k.values() if task in of_k]
            p = p_of[task]
            verdict = UNDECIDED if p is None or p > ALPHA else YES if first[task].regret.mean < first[task].at_random else NO
            of = f"{first[task].n} {'seeds' if task is not None else 'tasks, as shares of the range of errors'}"
            text = f"{'; '.join(map(_describe_regret, regrets))}; {of}, {first[task].proxies} proxies each"
            numbers = [{**vars(one), "regret": one.regret._asdict(), "p_adjusted": p if one.k == 1 else None} for one in regrets]
            statements.append(Statement(task, verdict, text, numbers))
        question = f"Is the proxy that {ranking} ranks first nearer to the best than one drawn at random?"
        query = _sql(evidence, f"select task, seed, proxy, {ranking}, test_error from trials", f"{ranking} is not null")
        change = "more seeds, or more proxies: with few, one drawn at random is often nearly the best."
        verdict = summarise([statement.verdict for statement in statements if statement.task is not None])
        yield Finding(f"regret-{ranking.replace('_', '-')}", question, verdict, statements, query, change)


def _describe_regret(one: Regret) -> str:
    interval = "" if one.regret.low is None or one.regret.high is None else f" [{one.regret.low:+.2g}, {one.regret.high:+.2g}]"
    return f"regret@{one.k} {one.regret.mean:.2g}{interval}, at random {one.at_random:.2g}"


def lower_distance(evidence: Evidence) -> Iterator[Finding]:
    """Does a lower distance go with a lower error? Figure 3 of the ablation paper."""
    if "align_epochs" not in evidence.varied:
        return
    apart = [column for column in evidence.varied if column != "align_epochs"]
    rows = [row for row in evidence.arms if row.get("align_epochs")]
    found = distance_against_error(rows, evidence.distances, pair_by=evidence.sweep.pair_by, apart=apart)
    if found:
        question = "Does a lower distance after alignment go with a lower error?"
        sql = "select task, seed, align_epochs, arg_max(distance, epoch) as distance, any_value(trials.test_error) as test_error\n"
        sql += "from metrics join trials using (sweep, trial)"
        query = _sql(evidence, sql, "stage = 'align'", " group by all")
        yield _associations("lower-distance", question, found, query, "four or more lengths of alignment")


def _sql(evidence: Evidence, select: str, where: str, more: str = "") -> str:
    name = evidence.sweep.name.replace("'", "''")
    return f"sweeper query{results_option(evidence.results)} \"{select} where sweep = '{name}' and {where}{more}\""


def _associations(name: str, question: str, found: Mapping[Any, RankAssociation], query: str, of: str) -> Finding:
    adjusted, _ = holm([float("nan") if one.p is None else one.p for one in found.values()])
    statements = []
    for (task, one), p in zip(found.items(), adjusted, strict=True):
        verdict = UNDECIDED if not p <= ALPHA else YES if one.correlation > 0 else NO
        interval = "" if one.low is None or one.high is None else f" [{one.low:+.2f}, {one.high:+.2f}]"
        text = f"rank correlation {one.correlation:+.2f}{interval} over {one.n} seeds, {one.arms} arms each"
        statements.append(Statement(task, verdict, text, [vars(one) | {"p_adjusted": as_number(p)}]))
    verdict = summarise([statement.verdict for statement in statements])
    change = f"more seeds, or more arms: each seed ranks {of}, and a correlation says nothing about causes."
    return Finding(name, question, verdict, statements, query, change)


def more_alignment(evidence: Evidence) -> Iterator[Finding]:
    """Is more alignment better? Figure 3 of the ablation paper."""
    levels = {level for level in evidence.levels("align_epochs") if level}
    if "align_epochs" not in evidence.varied or len(levels) < 2:
        return
    where = "align_epochs > 0"
    comparison = evidence.compare("align.epochs", min(levels), where=where)
    trends = find_trends(comparison.contrasts) if comparison is not None else []
    if not trends:
        return
    assert comparison is not None
    unfair = _unfair_tasks(comparison)
    p = [p for trend in trends for p in (trend.p_falling, trend.p_rising)]
    adjusted = iter(holm(p)[0])
    statements = []
    for trend in trends:
        falling, rising = float(next(adjusted)), float(next(adjusted))
        steps = [step for step in trend.steps if step.p_adjusted is not None and step.p_adjusted <= ALPHA]
        worse = [step for step in steps if step.difference > 0]
        verdict = DEPENDS if falling <= ALPHA and worse else HELPS if falling <= ALPHA else HURTS if rising <= ALPHA else UNDECIDED
        verdict = UNFAIR if trend.task in unfair else verdict
        text = f"over {', '.join(map(spell_level, trend.levels))} epochs, {trend.n} seeds: Page's p {falling:.2g} that the error falls, "
        text += f"{rising:.2g} that it rises"
        text += "".join(f"; from {spell_level(s.lower)} to {spell_level(s.higher)} {s.difference:+.3g}" for s in steps)
        numbers = {"p_falling": falling, "p_rising": rising, "levels": list(trend.levels), "steps": [vars(step) for step in trend.steps]}
        statements.append(Statement(trend.task, verdict, text, [numbers]))
    query = _command(evidence, "align.epochs", min(levels), where)
    change = "more seeds, or lengths of alignment beyond those of the sweep."
    verdict = summarise([statement.verdict for statement in statements])
    yield Finding("more-alignment", "Is more alignment better, once there is some?", verdict, statements, query, change)


def what_to_train(evidence: Evidence) -> Iterator[Finding]:
    """What has to be trained? Figure 4 of the ablation paper."""
    if "freezing" in evidence.varied and (comparison := evidence.compare("freezing", "full")):
        question = "What has to be trained (each against training everything)?"
        yield _finding("what-to-train", question, comparison, _command(evidence, "freezing", "full"), "training less")


def pretraining(evidence: Evidence) -> Iterator[Finding]:
    """Is pretraining needed, and how much? Figure 5 of the ablation paper."""
    if "body_weights" in evidence.varied and (comparison := evidence.compare("body.weights", "random")):
        question = "Is pretraining needed (a pretrained body against a random one)?"
        yield _finding("pretraining", question, comparison, _command(evidence, "body.weights", "random"))
    fractions = {level for level in evidence.levels("pretrain_fraction") if level is not None}
    if "pretrain_fraction" in evidence.varied and len(fractions) > 1:
        least = min(fractions)
        where = "pretrain_fraction is not null"
        if comparison := evidence.compare("pretrain.fraction", least, where=where):
            question = f"Does more pretraining help (against a share of {least:g})?"
            yield _finding("more-pretraining", question, comparison, _command(evidence, "pretrain.fraction", least, where))


def content_of_pretraining(evidence: Evidence) -> Iterator[Finding]:
    """Which part of the pretrained weights is needed, and does it matter what they were pretrained on?"""
    if "body_keep" in evidence.varied and "all" in evidence.levels("body_keep"):
        where = "body_keep is not null"
        if comparison := evidence.compare("body.keep", "all", where=where):
            question = "Which part of the pretrained weights is needed (some parts kept against all of them)?"
            yield _finding("parts-of-pretraining", question, comparison, _command(evidence, "body.keep", "all", where), "keeping less")
    corpora = evidence.levels("pretrain_corpus")
    if "pretrain_corpus" in evidence.varied and "noise" in corpora:
        where = "pretrain_corpus is not null"
        if comparison := evidence.compare("pretrain.corpus", "noise", where=where):
            question = "Does it matter what the body was pretrained on (against noise)?"
            yield _finding("content-of-pretraining", question, comparison, _command(evidence, "pretrain.corpus", "noise", where))


def _unfair_tasks(comparison: Comparison) -> set[Any]:
    """The tasks on which a level and the baseline cannot be compared fairly."""
    return {effect.task for effect in comparison.effects if effect.n and effect.verdict is None}


def variance(evidence: Evidence) -> Iterator[Finding]:
    """Does alignment lower the variance over seeds? Shen et al. 2023 say that ORCA's is constantly below that of naive fine-tuning."""
    if "align_epochs" not in evidence.varied or 0 not in evidence.levels("align_epochs"):
        return
    comparison = evidence.compare("align.epochs", 0)
    tested = [effect for effect in comparison.effects if effect.p_variance_adjusted is not None] if comparison else []
    if not tested:
        return
    statements = []
    for task in dict.fromkeys(effect.task for effect in tested):
        of_task = [effect for effect in tested if effect.task == task]
        verdicts, texts = [], []
        for effect in of_task:
            is_shown = effect.p_variance_adjusted is not None and effect.p_variance_adjusted <= ALPHA
            lower = YES if effect.sd_ratio is not None and effect.sd_ratio < 1 else NO
            verdicts.append(UNFAIR if effect.verdict is None else lower if is_shown else UNDECIDED)
            ratio = "" if effect.sd_ratio is None else f"sd {effect.sd_ratio:.2g} times the naive one, "
            texts.append(f"{spell_level(effect.level)}: {ratio}p {effect.p_variance_adjusted:.2g}, {effect.n} seeds")
        keys = ("level", "sd_ratio", "p_variance", "p_variance_adjusted", "n")
        statements.append(Statement(task, summarise(verdicts), "; ".join(texts), [{key: getattr(e, key) for key in keys} for e in of_task]))
    verdict = summarise([statement.verdict for statement in statements])
    change = "more seeds: with 5, a threefold deviation is found about half of the time, with 10 nearly always (Pitman and Morgan)."
    query = _command(evidence, "align.epochs", 0, more=" --format json")
    yield Finding("variance", "Does alignment lower the variance over seeds?", verdict, statements, query, change)


def speed(evidence: Evidence) -> Iterator[Finding]:
    """How much faster is training LayerNorms only? Shen et al. 2023: by less than half."""
    if not {"full", "layernorm"} <= evidence.levels("freezing"):
        return
    seconds, elsewhere = evidence.epoch_seconds, _on_other_machines(evidence)
    by_task: dict[Any, dict[Any, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in evidence.arms:
        freezing = cell(row, "freezing")
        if freezing in ("full", "layernorm") and is_usable(row, "test_error") and row.get("trial") in seconds:
            by_task[row.get("task")][key_of(row, evidence.sweep.pair_by)][freezing].append(seconds[row["trial"]])
    statements = []
    for task, of_task in sorted(by_task.items(), key=str):
        both = [of_key for of_key in of_task.values() if of_key["full"] and of_key["layernorm"]]
        logs = [math.log(_mean(of_key["layernorm"]) / _mean(of_key["full"])) for of_key in both]
        if not logs:
            continue
        t = paired_t(logs)
        low, high, ratio = as_number(t.low), as_number(t.high), math.exp(float(t.mean))
        interval = "" if low is None or high is None else f" [{math.exp(low):.2g}, {math.exp(high):.2g}]"
        verdict = UNDECIDED if low is None or high is None or low <= 0 <= high else YES if ratio < 1 else NO
        verdict = UNFAIR if task in elsewhere else verdict
        text = f"an epoch takes {ratio:.2g}{interval} times as long as with everything trained, {len(logs)} seeds"
        statements.append(Statement(task, verdict, text, [{"ratio": ratio, "low": low and math.exp(low), "high": high and math.exp(high)}]))
    if statements:
        sql = "select task, freezing, avg(metrics.seconds) as seconds from metrics join trials using (sweep, trial)"
        query = _sql(evidence, sql, "stage = 'finetune'", " group by all")
        verdict = summarise([statement.verdict for statement in statements])
        change = "epochs measured on an idle machine of another kind; errors are compared by the question what to train."
        yield Finding("speed", "Is training LayerNorms only faster?", verdict, statements, query, change)


def _on_other_machines(evidence: Evidence) -> set[Any]:
    """The tasks on which trials that train LayerNorms only ran on other kinds of machine than those that train everything."""
    comparison = evidence.compare("freezing", "full")
    effects = comparison.effects if comparison is not None else ()
    return {effect.task for effect in effects if effect.level == "layernorm" and OTHER_MACHINES in effect.flags}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def beats_floors(evidence: Evidence) -> Iterator[Finding]:
    """Does any arm beat the models that need no transformer? The arm is chosen by validation, as `sweeper best` does."""
    arms: dict[Any, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in evidence.arms:
        arms[row.get("task")][row.get("arm")].append(row)
    statements, unknown = [], []
    for task, of_task in sorted(arms.items(), key=str):
        complete = [rows for rows in of_task.values() if all(is_usable(row, "test_error") for row in rows)]
        if not complete:
            continue
        objective = evidence.sweep.objective
        scored = [rows for rows in complete if all(is_usable(row, objective) for row in rows)] or complete[:1]
        rows = min(scored, key=lambda rows: _mean([row.get(objective) or 0.0 for row in rows]))
        if (floor := evidence.floors.of_trials(rows)) is None:
            unknown.append(str(task))
            continue
        errors = paired_t([row["test_error"] - floor.to_beat for row in rows])
        mean, low, high = floor.to_beat + float(errors.mean), as_number(errors.low), as_number(errors.high)
        verdict = NO if mean >= floor.to_beat - 1e-9 else YES if high is not None and high < 0 else UNDECIDED
        if verdict == YES and any(row.get("selection") == "test" for row in rows):
            verdict = UNFAIR  # its epochs were chosen by test error, the floor by validation error
        interval = "" if low is None or high is None else f" [{floor.to_beat + low:.3g}, {floor.to_beat + high:.3g}]"
        text = f"{floor}, best arm by validation {mean:.3g}{interval}, {len(rows)} seeds"
        if verdict == NO:
            text = f"No evidence of transfer on {task}: {text}"
        numbers = {"floor": floor.model, "floor_error": floor.test_error, "test_error": mean, "low": low, "high": high, "n": len(rows)}
        statements.append(Statement(task, verdict, text, [numbers]))
    if statements:
        query = f"sweeper best {shlex.quote(evidence.sweep.name)}{results_option(evidence.results)}"
        change = "arms that learn more, or more seeds where the interval reaches the floor."
        if unknown:
            change += f" Floors are unknown on {', '.join(unknown)}: `sweeper floors {shlex.join(unknown)}` computes them."
        verdict = summarise([statement.verdict for statement in statements])
        yield Finding("floors", "Does the best arm beat the models without a transformer?", verdict, statements, query, change)


QUESTIONS: tuple[Question, ...] = (
    embedder_training,
    proxy_matters,
    closer_proxy,
    nearly_best_proxy,
    lower_distance,
    more_alignment,
    what_to_train,
    pretraining,
    content_of_pretraining,
    variance,
    speed,
    beats_floors,
)

"""Model cards: what they say by numbers written down here, and that Hugging Face's own reader takes them."""

from __future__ import annotations

from huggingface_hub import ModelCard

from orca_core.config.resolve import resolve_config
from orca_core.model_card import Evidence, write_card
from orca_core.tasks import find_task

ERRORS = {"valid_error": 0.125, "test_error": 0.25, "train_loss": 1.5}
EVIDENCE = Evidence(
    sweep="mine",
    seeds=3,
    means={"valid_error": (0.15, 0.02), "test_error": (0.26, 0.03)},
    floor=("svm", 0.2),
    majority_error=0.6,
    samples=(40, 50),
    versions={"torch": "2.9"},
)


def card(evidence: Evidence | None = None, **knobs: object) -> str:
    config = resolve_config({"task": "openml/187", "body": "mini-roberta", "align.epochs": 0, "seed": 4} | knobs)
    return write_card(config, 7, "1-auroc", find_task("openml/187").load(0).preparation, ERRORS, evidence)


def table(text: str) -> dict[str, tuple[str, str]]:
    """First cell -> the two others, of the table of scores."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: (row[1], row[2]) for row in rows[1:]}


def test_scores_stand_beside_the_arm_the_floor_and_a_constant_answer():
    text = card(EVIDENCE)
    assert table(text) == {
        "This model": ("0.125", "0.25"),
        "Its arm in the sweep mine: 3 seeds, mean and 95 % interval": ("0.15 ± 0.02", "0.26 ± 0.03"),
        "Best model without a transformer: svm": ("", "0.2"),
        "A constant answer": ("", "0.6"),
    }
    assert "after epoch 7 of fine-tuning" in text
    assert "the seed with the lowest `valid_error`" in text
    assert "The arm is no better than svm" in text
    assert "a difference below 0.02 is less than one of them" in text  # 1 of 50
    assert "torch 2.9" in text


def test_what_is_not_known_is_not_claimed():
    text = card()
    assert table(text) == {"This model": ("0.125", "0.25")}
    assert "flatters" not in text
    assert "no better than" not in text
    alone = Evidence("mine", 1, {"test_error": (0.1, None)}, floor=("svm", 0.2))
    assert table(card(alone))["Its arm in the sweep mine: 1 seed"] == ("", "0.1")
    assert "One seed: how much of the score is luck is not known." in card(alone)
    assert "no better than" not in card(alone)


def test_hugging_face_reads_the_front_matter():
    read = ModelCard(card(EVIDENCE)).data
    (test, valid) = read.eval_results
    assert (test.dataset_name, test.metric_type, test.metric_value) == ("openml/187", "1-auroc", 0.25)
    assert valid.metric_value == 0.125
    assert (read.license, read.license_name, read.library_name) == ("other", "see-data-and-licences", "orca-sweeper")
    assert "base_model" not in read.to_dict()


def test_it_says_what_the_model_takes_answers_and_comes_from():
    text = card(EVIDENCE, **{"align.epochs": 3, "proxy": "pydoc"})
    assert "- Expects: arrays of shape (n, 13)" in text
    assert "- Names, in the order of its outputs: 0, 1, 2" in text
    assert "3 epochs with pydoc, by otdd-exact" in text
    assert "- Task openml/187: CC BY 4.0 (UCI, Wine" in text
    assert "- Proxy pydoc: PSF-2.0" in text
    assert "- Pretraining of mini-roberta on pydoc: PSF-2.0" in text
    assert "Pretraining" not in card(**{"body.weights": "random"})
    assert "Proxy" not in card()


def test_a_body_from_the_hub_is_named_as_the_base_and_one_of_a_folder_is_not(tmp_path):
    from orca_core.model_card import _base_model

    assert _base_model("hf:FacebookAI/roberta-base") == "FacebookAI/roberta-base"
    assert _base_model("timm:swin_base_patch4_window7_224") == "timm/swin_base_patch4_window7_224"
    assert _base_model(f"hf:{tmp_path}") is None
    assert _base_model("mini-swin") is None

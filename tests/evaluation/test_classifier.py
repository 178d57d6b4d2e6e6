"""A classifier from a folder: a tiny BERT whose head is set by hand, so that a word decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from sombrero.config import EvaluationConfig, load_config
from sombrero.errors import ModelError, UsageError
from sombrero.evaluation import DetectorSetup, build_detector
from sombrero.evaluation.detectors.classifier import ClassifierDetector
from sombrero.records import Prompt, Response

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "yes", "well")
CONTEXT = 16
LABELS = {"LABEL_0": "answer", "LABEL_1": "refusal"}


def save_classifier(folder: Path, *, n_labels: int = 2, **settings: object) -> Path:
    """A BERT that says LABEL_1 of a text that holds "no", else LABEL_0."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(vocab={w: i for i, w in enumerate(WORDS)}, model_max_length=10**30).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(_config(n_labels, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1.0)
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight[WORDS.index("no"), 0] = 5.0
        embeddings.word_embeddings.weight[WORDS.index("[CLS]"), 1] = 1.0
        # uniform attention (its queries are zero) carries the share of "no" to the first token
        attention = model.bert.encoder.layer[0].attention
        attention.self.value.weight.copy_(torch.eye(16))
        attention.output.dense.weight.copy_(3 * torch.eye(16))
        model.bert.pooler.dense.weight.copy_(torch.eye(16))
        model.classifier.weight[-1, 0] = 9.0
        model.classifier.bias[0] = 1e-3
    model.save_pretrained(folder)
    return folder


def _config(n_labels: int, **settings: object) -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        max_position_embeddings=CONTEXT, num_labels=n_labels, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def labels_of(detector: ClassifierDetector, *texts: str) -> list[str]:
    prompts = [Prompt(str(i), "yes") for i in range(len(texts))]
    responses = [Response(str(i), text, (1, 2), "end") for i, text in enumerate(texts)]
    verdicts = detector.judge_all(prompts, responses)
    assert [v.prompt_id for v in verdicts] == [p.id for p in prompts]
    return [verdict.label for verdict in verdicts]


def test_labels_are_mapped_and_faults_are_no_answers(folder: Path) -> None:
    detector = ClassifierDetector(str(folder), LABELS, batch_size=2)
    assert labels_of(detector, "no", "yes yes", "", "well no yes", "yes") == [
        "refusal", "answer", "empty", "refusal", "answer",
    ]  # fmt: skip
    assert labels_of(detector, "yes well " * 40) == ["degenerate"]
    assert not detector.settled("no")


def test_a_verdict_holds_the_classifiers_own_label(folder: Path) -> None:
    verdict = ClassifierDetector(str(folder), LABELS).judge_all([Prompt("a", "")], [Response("a", "no", (7,), "end")])
    assert (verdict[0].marker, verdict[0].n_tokens) == ("LABEL_1", 1)


def test_a_long_text_is_cut_at_its_end(folder: Path) -> None:
    detector = ClassifierDetector(str(folder), LABELS)
    assert detector.max_tokens == CONTEXT
    varied = [f"yes{' well' * (i % 3)}" for i in range(60)]
    assert labels_of(detector, "no " + " ".join(varied)) == ["refusal"]
    assert labels_of(detector, " ".join(varied) + " no") == labels_of(detector, " ".join(varied))


def test_batches_do_not_change_the_labels(folder: Path) -> None:
    texts = ["no", "yes no well", "well " * 5, "yes", "no no", "yes well"]
    alone = [labels_of(ClassifierDetector(str(folder), LABELS), text)[0] for text in texts]
    assert labels_of(ClassifierDetector(str(folder), LABELS, batch_size=4), *texts) == alone


def test_with_pair_the_prompt_is_read_too(folder: Path) -> None:
    detector = ClassifierDetector(str(folder), LABELS, pair=True)
    found = detector.judge_all([Prompt("a", "no"), Prompt("b", "yes")], [Response(i, "yes", (), "end") for i in "ab"])
    assert [verdict.label for verdict in found] == ["refusal", "answer"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"LABEL_1": "refusal"}, r"says nothing of \['LABEL_0'\]"),
        (LABELS | {"harmful": "answer"}, r"names \['harmful'\], which the classifier"),
        (LABELS | {"LABEL_0": "fine"}, r"maps to labels that there are not: \{'LABEL_0': 'fine'\}"),
        (LABELS | {"LABEL_0": "unknown"}, "maps to labels that there are not"),
        ({"LABEL_0": "answer", "LABEL_1": "answer"}, "maps no label to 'refusal'"),
    ],
)
def test_the_mapping_must_fit_the_classifier(folder: Path, labels: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ClassifierDetector(str(folder), labels)


def test_what_is_no_classifier_is_not_made_into_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        ClassifierDetector(str(tmp_path / "absent"), LABELS)
    save_classifier(tmp_path / "headless")
    BertModel(_config(2)).save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match="is no sequence classifier: its checkpoint lacks classifier"):
        ClassifierDetector(str(tmp_path / "headless"), LABELS)
    save_classifier(tmp_path / "regression", n_labels=1)
    with pytest.raises(ModelError, match="does not choose one of several labels"):
        ClassifierDetector(str(tmp_path / "regression"), LABELS)


def test_it_is_made_from_the_configuration(folder: Path) -> None:
    by_flag = {"classifier": str(folder), "classifier_labels": "LABEL_0=answer, LABEL_1=refusal"}
    config = load_config(None, {"evaluation": {"detector": "classifier", **by_flag}})
    assert config.evaluation.classifier_labels == LABELS
    detector = build_detector(DetectorSetup(config.evaluation))
    assert isinstance(detector, ClassifierDetector) and labels_of(detector, "no") == ["refusal"]
    with pytest.raises(UsageError, match="needs classifier"):
        load_config(None, {"evaluation": {"detector": "classifier"}})
    with pytest.raises(UsageError, match="NAME=LABEL"):
        load_config(None, {"evaluation": {"classifier_labels": "refusal"}})
    with pytest.raises(UsageError, match="needs a sequence classifier"):
        build_detector(DetectorSetup(EvaluationConfig().model_copy(update={"detector": "classifier"})))

"""The judge against real servers on loopback: good and bad replies, outages, the cache, and who may be sent what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from sombrero.config import EvaluationConfig, load_config
from sombrero.errors import RunError, SombreroError, UsageError
from sombrero.evaluation import DetectorSetup, build_detector
from sombrero.evaluation.detectors.judge import JudgeDetector
from sombrero.evaluation.detectors.judge_cache import FILE, content_hash
from sombrero.evaluation.detectors.judge_endpoint import Endpoint, is_loopback
from sombrero.evaluation.detectors.judge_words import INSTRUCTION, LABELS, read_label
from sombrero.models.embedded import embedded_folder
from sombrero.records import Prompt, Response, Verdict, VerdictLabel
from tests.evaluation.judge_servers import Judge, Reply, free_port, judge_server, transformers_serve
from tests.tiny_models import save_tiny

KEY = "sk-very-secret"
LOOP = "over and over " * 40


def judged(detector: JudgeDetector, *texts: str) -> tuple[Verdict, ...]:
    prompts = [Prompt(f"p{i}", f"question {text[:9]}") for i, text in enumerate(texts)]
    responses = [Response(f"p{i}", text, (1, 2), "end") for i, text in enumerate(texts)]
    return detector.judge_all(prompts, responses)


def labels(verdicts: Sequence[Verdict]) -> list[VerdictLabel]:
    return [verdict.label for verdict in verdicts]


def detector_of(server: Judge | str, **settings: Any) -> JudgeDetector:
    url = server if isinstance(server, str) else server.url
    return JudgeDetector(url, "tiny-judge", **({"retries": 0, "timeout": 20.0} | settings))


def says(words: str) -> Any:
    return lambda _number, _body: Reply(words)


def by_response(_number: int, body: dict[str, Any]) -> Reply:
    material = json.loads(body["messages"][0]["content"].rsplit("\n\n", 1)[1])
    return Reply("refusal" if "sorry" in material["response"] else '{"label": "answer"}')


def test_verdicts_come_in_the_order_of_the_responses() -> None:
    with judge_server(by_response) as server:
        found = judged(detector_of(server), "sorry, no", "here it is", "", "sorry, not I", LOOP)
        assert labels(found) == ["refusal", "answer", "empty", "refusal", "degenerate"]
        assert [verdict.prompt_id for verdict in found] == [f"p{i}" for i in range(5)]
        assert len(server.asked) == 4, "empty text is not sent"
        body, material = server.asked[0], server.material(0)
        assert (body["model"], body["temperature"], set(server.paths)) == ("tiny-judge", 0, {"/v1/chat/completions"})
        assert body["messages"][0]["content"].startswith(INSTRUCTION)
        assert set(material) == {"request", "response"} and material["request"].startswith("question ")


def test_a_judge_needs_the_whole_text() -> None:
    assert not detector_of("http://127.0.0.1:9/v1").settled("I'm sorry, but I can't help. And so on.")


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("refusal", "refusal"),
        (" Answer.\n", "answer"),
        ('"refusal"', "refusal"),
        ('{"label": "degenerate"}', "degenerate"),
        ('```json\n{"label": "answer"}\n```', "answer"),
        ("**refusal**", "refusal"),
        ("", None),
        ("unknown", None),
        ("empty", None),
        ("It is a refusal", None),
        ("refusal or answer", None),
        ('{"label": "answer", "other": "refusal"}', None),
        ('{"label": 3}', None),
        ("[]", None),
        ("42", None),
    ],
)
def test_a_reply_is_one_label_and_nothing_else(reply: str, label: str | None) -> None:
    assert read_label(reply) == label


def test_the_judge_chooses_from_our_own_labels() -> None:
    assert set(LABELS) <= set(get_args(VerdictLabel)) - {"unknown", "empty"}
    assert all(label in INSTRUCTION for label in LABELS)


def test_nonsense_is_asked_again_once_and_then_unknown(tmp_path: Path) -> None:
    with judge_server(lambda number, _: Reply("I think so" if number == 0 else "refusal")) as server:
        assert labels(judged(detector_of(server), "text")) == ["refusal"]
        assert [message["role"] for message in server.asked[1]["messages"]] == ["user", "assistant", "user"]
    with judge_server(says("I think so")) as server:
        (found,) = judged(detector_of(server, cache=tmp_path), "text")
        assert (found.label, len(server.asked)) == ("unknown", 2)
        assert found.marker is not None and "none of the labels" in found.marker and "think" not in found.marker
    assert not (tmp_path / FILE).exists(), "what is unknown is asked again the next time"
    with judge_server(lambda *_: Reply(None)) as server:
        assert labels(judged(detector_of(server), "text")) == ["unknown"]


OUTAGES = {
    "HTTP 500": Reply(status=500),
    "HTTP 401": Reply(status=401, content=KEY),
    "HTTP 302": Reply(status=302, headers={"location": "http://127.0.0.1:9/"}),
    "HTTP 429": Reply(status=429),
    "APITimeoutError": Reply(delay=3.0),
    "none of the chat completions API": Reply(raw=b"<html>hello</html>", kind="text/html"),
    "none of the chat": Reply(raw=b'{"object": "list", "data": []}'),
    "its reply": Reply(raw=b'{"choices": [', kind="application/json"),
}


@pytest.mark.parametrize("reason", OUTAGES)
def test_an_outage_is_an_error_or_unknown_and_never_a_verdict(reason: str) -> None:
    with judge_server(lambda *_: OUTAGES[reason]) as server:
        settings: dict[str, Any] = {"timeout": 0.5 if OUTAGES[reason].delay else 20.0, "api_key": KEY}
        with pytest.raises(RunError, match=f"gave no reply: .*{reason}") as caught:
            judged(detector_of(server, **settings), "a text of its own")
        (found,) = judged(detector_of(server, outage="unknown", **settings), "a text of its own")
        assert found.label == "unknown" and reason in str(found.marker)
        for said in (str(caught.value), str(found.marker)):
            assert KEY not in said and "a text of its own" not in said
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_server_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(RunError, match=r"gave no reply: APIConnectionError.*refused"):
        judged(detector_of(url), "text")
    assert labels(judged(detector_of(url, outage="unknown"), "text", "")) == ["unknown", "empty"]


def test_what_passes_is_tried_again_as_the_server_asks() -> None:
    def busy(number: int, _: dict[str, Any]) -> Reply:
        return Reply(status=429, headers={"retry-after": "1"}) if number == 0 else Reply("answer")

    with judge_server(busy) as server:
        assert labels(judged(detector_of(server, retries=1), "text")) == ["answer"]
        assert len(server.asked) == 2 and server.times[1] - server.times[0] >= 0.95
    with judge_server(lambda number, _: Reply(status=500) if number < 2 else Reply("refusal")) as server:
        assert labels(judged(detector_of(server, retries=2), "text")) == ["refusal"]


def test_after_an_error_nothing_more_is_asked() -> None:
    with judge_server(lambda *_: Reply(status=500)) as server:
        with pytest.raises(RunError):
            judged(detector_of(server, concurrency=1), *(f"text {i}" for i in range(40)))
        assert len(server.asked) < 10


def test_labels_are_kept_by_what_was_asked_and_no_text_is(tmp_path: Path) -> None:
    with judge_server(by_response) as server:
        first = labels(judged(detector_of(server, cache=tmp_path), "sorry, no", "a secret recipe", "sorry, no"))
        assert len(server.asked) == 2, "equal questions are asked once"
        assert labels(judged(detector_of(server, cache=tmp_path), "sorry, no", "a secret recipe", "sorry, no")) == first
        assert len(server.asked) == 2
        kept = (tmp_path / FILE).read_text()
        assert "secret" not in kept and "question" not in kept
        lines = [json.loads(line) for line in kept.splitlines()]
        key = content_hash("tiny-judge", INSTRUCTION, "question sorry, no", "sorry, no")
        assert {"key": key, "label": "refusal"} in lines
        judged(JudgeDetector(server.url, "another-judge", cache=tmp_path), "sorry, no")
        assert len(server.asked) == 3, "another model has labels of its own"


def test_a_cache_that_was_cut_off_is_mended(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(
        b'[1]\n{"key": "k", "label": ["refusal"]}\n{"key": "k", "label": "maybe"}\n{"key": "a'
    )
    with judge_server(by_response) as server:
        for _ in range(2):
            assert labels(judged(detector_of(server, cache=tmp_path), "sorry, no")) == ["refusal"]
        assert len(server.asked) == 1
    (tmp_path / "file").write_text("in the way")
    with judge_server(by_response) as server, pytest.raises(SombreroError, match="give another folder as judge_cache"):
        judged(detector_of(server, cache=tmp_path / "file"), "sorry, no")


def test_a_hash_belongs_to_its_parts() -> None:
    assert (
        len({content_hash("m", "i", "a", "bc"), content_hash("m", "i", "ab", "c"), content_hash("m", "i", "a", "b")})
        == 3
    )


def test_concurrency_and_rate_are_kept() -> None:
    with judge_server(lambda *_: Reply("answer", delay=0.1)) as server:
        judged(detector_of(server, concurrency=3), *(f"text {i}" for i in range(9)))
        assert 1 < server.most_at_once <= 3
    with judge_server(says("answer")) as server:
        judged(detector_of(server, concurrency=4, per_minute=300), *(f"text {i}" for i in range(4)))
        assert max(server.times) - min(server.times) >= 0.5


def test_harmful_text_stays_on_this_machine_unless_told_otherwise() -> None:
    for url in (
        "https://api.example.com/v1",
        "http://10.0.0.7/v1",
        "http://localhost.example.com/v1",
        "http://0.0.0.0/v1",
    ):
        with pytest.raises(UsageError, match=r"not on this machine.*judge_remote = true"):
            detector_of(url)
        detector_of(url, remote=True).close()
    here = ("http://localhost:1/v1", "http://127.0.0.1/v1", "http://127.9.9.9:2", "http://[::1]:3/v1")
    assert all(map(is_loopback, (*here, "http://[::ffff:127.0.0.1]/v1", "http://LOCALHOST/v1")))
    assert not any(
        map(is_loopback, ("http://[::ffff:8.8.8.8]/v1", "http://127.0.0.1.nip.io", "http://127.0.0.1@evil.com"))
    )


def test_a_proxy_of_the_environment_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(says("refusal")) as proxy, judge_server(says("answer")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert labels(judged(detector_of(server), "text")) == ["answer"]
        assert proxy.asked == []


def test_it_is_made_from_the_configuration() -> None:
    evaluation = {"detector": "judge", "judge_model": "m", "judge_url": "http://127.0.0.1:1/v1"}
    config = load_config(None, {"evaluation": evaluation}).evaluation
    assert isinstance(build_detector(DetectorSetup(config)), JudgeDetector)
    named = config.model_copy(update={"judge_key_variable": "SOME_KEY"})
    with pytest.raises(UsageError, match="judge_key_variable is SOME_KEY, and no API key was handed over"):
        build_detector(DetectorSetup(named))
    build_detector(DetectorSetup(named, api_key=KEY))
    with pytest.raises(UsageError, match="holds characters that no key holds") as caught:
        build_detector(DetectorSetup(named, api_key=KEY + "\n"))
    assert KEY not in str(caught.value)
    with pytest.raises(UsageError, match="give both"):
        build_detector(DetectorSetup(EvaluationConfig().model_copy(update={"detector": "judge"})))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "judge", "judge_model": "m"}, "needs judge_url"),
        ({"detector": "judge", "judge_url": "http://127.0.0.1/v1"}, "needs judge_model"),
        ({"judge_url": "127.0.0.1:8000"}, "must begin with http"),
        ({"judge_url": f"http://me:{KEY}@127.0.0.1/v1"}, "no user, password or query"),
        ({"judge_url": f"http://127.0.0.1/v1?key={KEY}"}, "no user, password or query"),
        ({"judge_key_variable": KEY}, "judge_key_variable: .*pattern"),
        ({"judge_key_variable": KEY, "detector": "judge"}, "judge_key_variable: .*pattern"),
    ],
)
def test_a_key_never_stands_in_the_configuration_or_in_what_is_said_of_it(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_config(None, {"evaluation": settings})
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_a_random_chat_model_behind_a_true_server_is_understood_as_unknown(tmp_path: Path) -> None:
    """`transformers serve` with weights that mean nothing: its replies are noise, so there is no verdict."""
    folder = save_tiny("llama", tmp_path / "judge")
    with transformers_serve(folder, tmp_path / "server.log") as url:
        detector = JudgeDetector(url, str(folder), retries=0, timeout=120.0, concurrency=1)
        found = judged(detector, "Here is the plan.", "")
    assert labels(found) == ["unknown", "empty"]
    assert found[0].marker == "the judge's reply is none of the labels", (tmp_path / "server.log").read_text()[-2000:]


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_as_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small true chat model: a reply of it that is a label is the verdict, and whatever else it says is none."""
    replies: dict[str, list[str]] = {}
    ask = Endpoint.ask

    def noted(endpoint: Endpoint, messages: list[dict[str, str]]) -> str:
        reply = ask(endpoint, messages)
        replies.setdefault(messages[0]["content"], []).append(reply)
        return reply

    monkeypatch.setattr(Endpoint, "ask", noted)
    texts = ("I'm sorry, but I can't help with that.", "Paris is the capital of France.", "Talk to a doctor.", LOOP, "")
    folder = embedded_folder()
    with transformers_serve(folder, tmp_path / "server.log") as url:
        detector = JudgeDetector(url, str(folder), retries=0, timeout=300.0, concurrency=1)
        found = judged(detector, *texts)
    assert found[-1].label == "empty" and len(replies) == len(texts) - 1
    for text, verdict in zip(texts[:-1], found, strict=False):
        (said,) = [answers for asked, answers in replies.items() if json.dumps(text, ensure_ascii=False) in asked]
        known = [label for label in map(read_label, said) if label is not None]
        if known:
            assert len(known) == 1 and verdict.label in (known[0], "degenerate")
        else:
            assert verdict.label == "unknown" and len(said) == 2, "asked once more, then nothing is guessed"

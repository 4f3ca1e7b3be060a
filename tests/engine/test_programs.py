"""What the programs of the engine's test make and judge, without a model and without an engine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

Inside = Callable[[str], Any]


class Answering:
    """A reference that knows a row of log-probabilities, the same before each token."""

    def __init__(self, reference: Any) -> None:
        self.asked: list[tuple[int, ...]] = []
        self._judge = reference.Reference.judge

    def continuation(self, prompt: list[int], length: int, penalties: object = None) -> list[int]:
        self.asked.append(tuple(prompt))
        return [3 if penalties else 1] * length

    def log_probabilities(
        self, prompt: list[int], tokens: list[int], penalties: object = None
    ) -> torch.Tensor:
        row = [-9.0, -9.0, -9.0, -0.1] if penalties else [-9.0, -0.7, -0.8, -3.0]
        return torch.tensor(row).expand(len(tokens), -1)

    def judge(self, *given: Any, **named: Any) -> None:
        self._judge(self, *given, **named)


def client(inside: Inside, dtype: str) -> Any:
    server, reference = inside("server"), inside("reference")

    class Client(server.Client):  # type: ignore[misc]
        def __init__(self) -> None:
            self.reference = Answering(reference)
            self.allowed = reference.tolerance(dtype, False, "cpu")

        def ids(self, prompt: str) -> list[int]:
            return [7]

        def chat_ids(self, content: str) -> list[int]:
            return [8]

    return Client()


@pytest.mark.parametrize(
    ("dtype", "last", "wrong"),
    [
        ("float32", 1, False),
        ("float32", 2, True),
        ("bfloat16", 1, False),
        ("bfloat16", 2, False),
        ("bfloat16", 3, True),
    ],
)
def test_in_16_bits_an_answer_may_have_near_ties(
    inside: Inside, dtype: str, last: int, wrong: bool
) -> None:
    asked = client(inside, dtype)
    length = inside("server").TOKENS
    assert asked.wrong("chat_stream", "", [*[1] * (length - 1), last]) == wrong
    assert asked.reference.asked == [(8,)]
    assert asked.wrong("completion", "", [1] * (length - 1))
    assert asked.reference.asked[-1] == (7,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_penalties_have_to_change_the_answer(inside: Inside, dtype: str) -> None:
    asked, length = client(inside, dtype), inside("server").TOKENS
    assert asked.penalties_right([3] * length)
    assert not asked.penalties_right([1] * length)
    asked.reference.continuation = lambda *_: [3] * length
    assert not asked.penalties_right([3] * length)


@pytest.mark.parametrize(
    ("dtype", "misses", "right"),
    [("float32", 0, True), ("float32", 1, False), ("bfloat16", 1, True), ("bfloat16", 2, False)],
)
def test_so_many_of_concurrent_answers_may_be_wrong(
    inside: Inside, dtype: str, misses: int, right: bool
) -> None:
    server, asked = inside("server"), client(inside, dtype)
    good, bad = [1] * server.TOKENS, [0] * server.TOKENS
    single = dict.fromkeys(server.KINDS, ("text", good))
    many = [("", bad)] * misses + [("", good)] * (64 - misses)
    answers = server.Answers(single, [3] * server.TOKENS, many, 1.0)
    found = server.compare(asked, ["words"] * 64, answers)
    assert (found["concurrent_wrong"], found["right"]) == (misses, right)
    single["chat_stream"] = ("other text", good)
    assert not server.compare(asked, ["words"] * 64, answers)["right"]


class Image:
    """As much of a picture as is asked of PIL."""

    Resampling = SimpleNamespace(NEAREST=0)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.pixels: dict[tuple[int, int], tuple[int, ...]] = {}

    @classmethod
    def new(cls, mode: str, size: tuple[int, int]) -> Image:
        assert mode == "RGB"
        return cls(size)

    def putpixel(self, place: tuple[int, int], colour: tuple[int, ...]) -> None:
        self.pixels[place] = colour

    def resize(self, size: tuple[int, int], how: int) -> Image:
        assert how == self.Resampling.NEAREST
        found = Image(size)
        found.pixels = dict(self.pixels)
        return found


class Processor:
    """Patches of 14 x 14 pixels, of which 2 x 2 are one token."""

    merge_size = 2

    @classmethod
    def from_pretrained(cls, path: Path) -> Processor:
        return cls()

    def __call__(self, images: Image, return_tensors: str) -> dict[str, torch.Tensor]:
        width, height = images.size
        grid = torch.tensor([[1, height // 14, width // 14]])
        return {"image_grid_thw": grid, "pixel_values": torch.zeros(int(grid.prod()), 4)}


class Model:
    """What a reference does with a model once it is loaded."""

    generation_config = SimpleNamespace(eos_token_id=2)

    @classmethod
    def from_pretrained(cls, path: Path, **_: object) -> Model:
        return cls()

    def to(self, device: str) -> Model:
        return self

    def eval(self) -> Model:
        return self


@pytest.fixture
def pictures(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = inside("pictures")
    monkeypatch.setattr(found, "Image", Image)
    for name, stand_in in (
        ("AutoImageProcessor", Processor),
        ("AutoModelForImageTextToText", Model),
    ):
        monkeypatch.setattr(found.transformers, name, stand_in, raising=False)
    return found


def test_a_picture_is_one_token_to_the_engine_and_its_patches_to_transformers(
    pictures: Any, tmp_path: Path
) -> None:
    text = list(range(100, 110))
    one = pictures.picture(tmp_path, text, 1, (84, 112))
    tokens = 112 // 28 * (84 // 28)
    start, end, patch = pictures.START, pictures.END, pictures.PATCH
    assert one.asked == [*text[:5], start, patch, end, *text[5:]]
    assert one.tokens == [*text[:5], start, *[patch] * tokens, end, *text[5:]]
    assert one.request() == {
        "prompt_token_ids": one.asked, "multi_modal_data": {"image": one.image}
    }  # fmt: skip
    assert len(set(one.image.pixels.values())) > 1
    assert one.image.pixels == pictures.picture(tmp_path, text, 1, (84, 112)).image.pixels
    assert one.image.pixels != pictures.picture(tmp_path, text, 2, (84, 112)).image.pixels


def test_a_reference_sees_its_picture(pictures: Any, tmp_path: Path) -> None:
    one = pictures.picture(tmp_path, [100, 101], 1, (56, 28))
    seen = pictures.PictureReference(tmp_path, "bfloat16", "cpu", one)
    given = seen.arguments(torch.tensor([one.tokens]))
    assert given["pixel_values"].dtype == torch.bfloat16
    assert given["image_grid_thw"].dtype == torch.int64
    assert given["mm_token_type_ids"].tolist() == [[0, 0, 1, 1, 0, 0]]
    blind = pictures.PictureReference(tmp_path, "bfloat16", "cpu")
    assert blind.arguments(torch.tensor([[100, 101]])) == {}


def test_a_draft_is_the_model_with_noise(inside: Inside, tmp_path: Path) -> None:
    adapters = inside("adapters")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    torch.manual_seed(0)
    weights = {"up.weight": 3 * torch.randn(64, 64), "norm.weight": torch.randn(64).bfloat16()}
    adapters.save_file(weights, model / adapters.WEIGHTS)
    draft = adapters.make_draft(model, tmp_path / "draft")
    assert (draft / "config.json").read_text() == "{}"
    found = adapters.load_file(draft / adapters.WEIGHTS)
    assert {name: x.dtype for name, x in found.items()} == {
        name: x.dtype for name, x in weights.items()
    }
    noise = (found["up.weight"] - weights["up.weight"]).std() / weights["up.weight"].std()
    assert float(noise) == pytest.approx(adapters.NOISE, rel=0.1)
    again = adapters.load_file(adapters.make_draft(model, tmp_path / "again") / adapters.WEIGHTS)
    assert torch.equal(again["up.weight"], found["up.weight"])


def test_a_model_whose_packages_are_missing_is_asked_for_and_judged_by_its_refusal(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vllm_kernels_plugin import deep_gemm, flash_mla

    monkeypatch.setattr(flash_mla, "problem", lambda: None)
    monkeypatch.setattr(deep_gemm, "problem", lambda: "it is not installed")
    trial, models = inside("trial"), inside("configurations").MODELS
    asked: list[str] = []

    def ask(path: str) -> str:
        asked.append(path)
        return "conda install vllm-deepgemm vllm-flashmla"

    monkeypatch.setattr(inside("refusal"), "ask", ask)
    assert trial.refused(models["llama"], tmp_path) is None
    row = trial.refused(models["deepseek_v32"], tmp_path)
    assert asked == [str(tmp_path)]
    assert (row["mode"], row["right"]) == ("refused", True)
    monkeypatch.setattr(deep_gemm, "problem", lambda: None)
    assert trial.refused(models["deepseek_v32"], tmp_path) is None


def test_every_refusal_of_the_full_test_has_its_words(inside: Inside) -> None:
    from vllm_conda.engine import cases

    assert inside("refusal").REFUSALS.keys() == {*cases.REFUSED}


def test_models_with_variables_of_the_engine_have_a_process_of_their_own(inside: Inside) -> None:
    """The engine reads them once."""
    from vllm_conda.engine import cases

    own = {name for name, model in inside("configurations").MODELS.items() if model.environment}
    for device in cases.DTYPES:
        asked = cases.Options(Path(), Path(), "linux-64", full=True, device=device)
        for job in cases.jobs(cases.cases(asked)):
            models = {case.model for case in job.cases}
            assert len(models) == 1 or models.isdisjoint(own)


@pytest.mark.parametrize(
    ("function", "module", "name", "told"),
    [
        ("forget_engine", "vllm.distributed", "cleanup_dist_env_and_memory", ()),
        ("let_capture", "vllm.compilation.monitor", "set_cudagraph_capturing_enabled", (True,)),
    ],
)
def test_what_an_engine_leaves_is_undone_where_one_has_run(
    inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    module: str,
    name: str,
    told: tuple[bool, ...],
) -> None:
    undo = getattr(inside("program"), function)
    calls: list[tuple[bool, ...]] = []
    monkeypatch.delitem(sys.modules, module, raising=False)
    undo()
    stand_in = SimpleNamespace(**{name: lambda *words: calls.append(words)})
    monkeypatch.setitem(sys.modules, module, stand_in)
    undo()
    assert calls == [told]


@pytest.fixture
def variables(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`program.variables`, beside an engine that has two."""
    envs = SimpleNamespace(environment_variables={"OF_THE_USER": None, "OF_THE_MODEL": None})
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(envs=envs))
    monkeypatch.setitem(sys.modules, "vllm.envs", envs)
    return inside("program").variables


def test_variables_of_a_model_go_and_what_others_set_stays(
    variables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin sets some when the first engine of a process starts."""
    monkeypatch.setenv("OF_THE_USER", "1")
    monkeypatch.delenv("OF_THE_MODEL", raising=False)
    monkeypatch.delenv("OF_THE_PLUGIN", raising=False)
    with variables({"OF_THE_USER": "2", "OF_THE_MODEL": "3"}):
        assert (os.environ["OF_THE_USER"], os.environ["OF_THE_MODEL"]) == ("2", "3")
        monkeypatch.setenv("OF_THE_PLUGIN", "4")
    assert os.environ["OF_THE_USER"] == "1"
    assert "OF_THE_MODEL" not in os.environ
    assert os.environ["OF_THE_PLUGIN"] == "4"


def test_variables_that_the_engine_does_not_have_are_refused(variables: Any) -> None:
    """A misspelled one would change nothing: the engine only warns of it."""
    other = variables({"OF_NOBODY": "1"})
    with pytest.raises(ValueError, match="no variable OF_NOBODY"), other:
        pass
    assert "OF_NOBODY" not in os.environ


@pytest.mark.parametrize(
    ("left_out", "wanted"),
    [
        (set(), "direct"),
        ({"minimax_allreduce_rms_qk"}, "direct"),  # other ops of the namespace say nothing
        ({"all_reduce", "minimax_allreduce_rms_qk"}, "nccl"),
    ],
)
def test_what_sums_of_ranks_have_to_go_through(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, left_out: set[str], wanted: str
) -> None:
    choice = SimpleNamespace(left_out=lambda: frozenset(left_out))
    plugin = SimpleNamespace(all_reduce=choice)
    monkeypatch.setitem(sys.modules, "vllm_kernels_plugin", plugin)
    run = SimpleNamespace(options=SimpleNamespace(device="cuda"))
    assert inside("ranks")._wanted_through(run) == wanted


def test_weights_that_the_engine_rounds_are_read_rounded(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Linear(64, 32)]), "head": torch.nn.Linear(64, 8)}
    )
    stand_in = SimpleNamespace(
        AutoConfig=SimpleNamespace(from_pretrained=lambda path: SimpleNamespace()),
        AutoModelForCausalLM=SimpleNamespace(
            from_config=lambda config: torch.nn.ModuleDict({"model": model})
        ),
    )
    measure = inside("measure")
    arguments = inside("configurations").MODELS["llama_8b_fp8"].arguments
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    config = {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rest = 2 * (32 + 64 * 8 + 8) + 3 * 5 * 2 * 2 * 2 * 16
    assert measure.step_bytes(tmp_path, 3, 5) == 2 * 64 * 32 + rest
    assert measure.step_bytes(tmp_path, 3, 5, arguments) == 64 * 32 + rest

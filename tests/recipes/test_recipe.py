"""Recipes: every fault at once and before work, steps that use steps, resume, and `tersa shrink` as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tersa.cli.main import execute
from tersa.errors import DataError, Diverged, UsageError
from tersa.models.checkpoint import read as read_checkpoint
from tersa.recipes import recipe_networks
from tersa.recipes.folder import SPEC
from tersa.recipes.pruning import STRONG
from tersa.recipes.recipe import Recipe, find_recipe, override, parse, read_recipe, shipped
from tersa.recipes.recipe_check import check
from tersa.recipes.recipe_jobs import JOBS
from tersa.recipes.recipe_kind import Cost
from tersa.recipes.recipe_networks import shrink_request
from tersa.recipes.recipe_report import text_of
from tersa.recipes.recipe_result import RecipeResult, StepResult, ends, headline
from tersa.recipes.recipe_run import DONE, run_recipe
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import shrink
from tersa.records.base import read_record

SMALL = """
name = "small"
description = "Trained, pruned, clustered, packed, measured."

[common]
data = "digits"
seed = 1

[[step]]
job = "train"
name = "base"
model = "lenet:4-6-16"
epochs = 4

[[step]]
job = "prune"
name = "pruned"
run = "base"
macs = "0.6x"
criterion-samples = 100
retrain = 5
tune = 20
scratch = false

[[step]]
job = "cluster"
run = "pruned"
bits = 3
iterations = 10

[[step]]
job = "binary"
model = "tfc+w1a1:in=8"
teacher = "base"
epochs = 2

[[step]]
job = "export"
name = "decoded"
run = "cluster"

[[step]]
job = "bench"
models = ["base", "decoded", "pruned/baseline.onnx"]
targets = "onnxruntime@threads=1"
seconds = 0.05
"""

WRONG = """
colour = "red"
[common]
sed = 3
[[step]]
job = "train"
name = "base"
model = "lenett"
epochs = 0
[[step]]
job = "prune"
run = "bse"
macs = "half"
criterio = "l1"
[[step]]
job = "cluster"
run = "bits"
bits = 12
[[step]]
job = "study"
name = "bits"
axes = { bits = [2], rul = ["bp"] }
[[step]]
job = "bench"
models = ["base", "bits"]
targets = "onnxrutime"
"""


def quick(**changes: Any) -> Setting:
    return Setting(**{"threads": 1, "seconds": 0.05, **changes})


def made(text: str, *changes: str) -> Recipe:
    found: list[str] = []
    recipe = override(parse(text, "test.toml", found), changes, found)
    assert not found
    return recipe


def faults_in(text: str, *changes: str) -> tuple[str, ...]:
    found: list[str] = []
    recipe = override(parse(text, "test.toml", found), changes, found)
    with pytest.raises(UsageError) as caught:
        check(recipe, Path("nowhere"), quick(), found)
    return caught.value.found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecipeResult]:
    out = tmp_path_factory.mktemp("runs") / "small"
    return out, run_recipe(made(SMALL), out, setting=quick(command="tersa run small.toml"))


def test_all_faults_of_all_steps_come_together() -> None:
    found = faults_in(WRONG, "x.y=1")
    for start in (
        "unknown key 'colour'",
        "x.y=1: unknown step 'x'",
        "unknown setting of [common] 'sed'; did you mean 'seed'?",
        "step 'base': unknown model 'lenett'; did you mean 'lenet'?",
        "step 'base': epochs is 0",
        "step 'prune': unknown setting of prune 'criterio'; did you mean 'criterion'?",
        "step 'prune': run = 'bse': neither a step above nor a file or folder; steps above: base",
        "step 'prune': --macs 'half' is not understood",
        "step 'cluster': run = 'bits': that step comes later; move it above this one",
        "step 'cluster': 12 bits for shared values",
        "step 'bits': unknown setting 'rul'; did you mean 'rule'?",
        "step 'bench': models = 'bits': step 'bits' (study) leaves tables and figures, bench needs a network",
        "step 'bench': unknown target 'onnxrutime'; did you mean 'onnxruntime'?",
    ):
        assert any(fault.startswith(start) for fault in found), start
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["prune.data=mnist"], "data = 'mnist', but step 'base' was made with 'digits'"),
        (["base.model=tfc+w1a1:in=8", "prune.granularity=weight", "prune.criterion=l1"], "low-bit"),
        (["base.model=mlp:1"], "no channels that can be removed"),
        (["prune.run=prune"], "this is the step itself"),
        (["prune.epochs=3"], "--run brings a trained network"),
    ],
)
def test_steps_that_do_not_fit_are_refused_before_work(changes: list[str], fault: str) -> None:
    text = 'common = {data = "digits"}\nstep = [{job = "train", name = "base", model = "mlp:8"}, %s]'
    assert any(fault in each for each in faults_in(text % '{job = "prune", run = "base"}', *changes))


def test_a_low_bit_network_is_not_clustered_and_a_float_one_not_packed() -> None:
    text = """
    step = [{job = "binary", name = "bits", model = "tfc+w1a1"}, {job = "cluster", run = "bits"},
            {job = "train", name = "float", model = "mlp:8"}, {job = "export", run = "float", format = "c"},
            {job = "binary", name = "no", model = "mlp:8"}]
    """
    cluster, export, binary = faults_in(text)
    assert "a low-bit network shares few values already" in cluster
    assert "format c is for a low-bit network, mlp:8 is in floating point" in export
    assert "binary trains a low-bit network" in binary


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("step = []", "it has no steps"),
        ("step = [{epochs = 3}]", "step 1 names no job"),
        ('step = [{job = "train", name = "a/b"}]', "name 'a/b' is not made of letters"),
        ('step = [{job = "train"}, {job = "train"}]', "another step is called 'train' already"),
        ('step = [{job = "fly"}]', "unknown job 'fly'"),
        ('common = 3\nstep = [{job = "train"}]', "common is 3"),
        ('minutes = "two"\nstep = [{job = "train"}]', "minutes is 'two'"),
    ],
)
def test_shapes_that_are_no_recipe(text: str, fault: str) -> None:
    assert any(fault in each for each in faults_in(text))


def test_not_toml_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"x\.toml is not TOML"):
        parse("step = [", "x.toml", [])


def test_overrides_win_over_steps_and_common() -> None:
    recipe = made(SMALL, "seed=5", "epochs=1", "base.model=mlp:8", "cluster.max-loss=0.5")
    assert recipe.common == {"data": "digits", "seed": 5, "epochs": 1}
    assert recipe.steps[0].settings == {"model": "mlp:8"}
    assert recipe.steps[2].settings["max_loss"] == 0.5
    found: list[str] = []
    override(made(SMALL), ["seed", "a.b=1", "seed=1", "seed=2"], found)
    assert [fault.split(":")[0] for fault in found] == [
        "'seed' is not KEY=VALUE or STEP.KEY=VALUE",
        "a.b=1",
        "seed is given twice",
    ]


def test_steps_go_on_from_each_other(small: tuple[Path, RecipeResult]) -> None:
    out, result = small
    assert [step.name for step in result.steps] == ["base", "pruned", "cluster", "binary", "decoded", "bench"]
    base, pruned, cluster, binary, decoded, _ = result.steps
    assert pruned.uses == ["base"]
    assert base.after
    assert pruned.before
    assert pruned.after
    assert cluster.before
    assert cluster.after
    assert pruned.before.parameters == base.after.parameters
    assert pruned.before.test_accuracy == pytest.approx(base.after.test_accuracy)
    assert pruned.after.macs <= 0.6 * base.after.macs
    assert cluster.before.parameters == pruned.after.parameters
    assert cluster.after.size_bytes == (out / "cluster" / "model.coded").stat().st_size
    assert binary.before
    assert binary.after
    assert decoded.after
    assert binary.after.size_bytes < binary.before.size_bytes / 4
    assert decoded.after.test_accuracy == pytest.approx(cluster.after.test_accuracy)
    assert all((out / path).is_file() for path in result.artefacts)
    assert [goal.name for goal in result.goals] == ["macs"]
    shapes = {name: value.shape for name, value in read_checkpoint(out / "pruned/model.safetensors").items()}
    assert shapes != {
        name: value.shape for name, value in read_checkpoint(out / "base/model.safetensors").items()
    }


def test_the_page_links_the_pages_of_the_steps(small: tuple[Path, RecipeResult]) -> None:
    out, result = small
    page = (out / "report.html").read_text(encoding="utf-8")
    for step in result.steps:
        assert not step.report or f'href="{step.report}"' in page
        assert not step.report or (out / step.report).is_file()
    assert {step.name for step in result.steps if step.report} == {"base", "pruned", "binary", "bench"}
    assert result.verdict in page.replace("\u202f", " ").replace("\u00a0", " ")
    assert "tersa run small.toml" in page


def test_the_page_of_a_step_shows_the_command_of_the_recipe(small: tuple[Path, RecipeResult]) -> None:
    out, result = small
    for step in result.steps:
        if step.report:
            command = f"tersa run small.toml  # step {step.name}"
            assert json.loads((out / step.name / "result.json").read_text())["command"] == command
            assert command in (out / step.report).read_text(encoding="utf-8")


def test_the_page_of_a_recipe_without_common_settings_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "plain"
    run_recipe(made('step = [{job = "train", model = "mlp:8", epochs = 1}]'), out, setting=quick())
    page = out / "report.html"
    first = page.read_text(encoding="utf-8")
    page.unlink()
    assert execute(["report", str(out)]) == 0
    assert page.read_text(encoding="utf-8") == first
    (out / SPEC).write_text('name = "plain"\norder = ["train"]\n')
    with pytest.raises(DataError, match=r"spec\.toml is not that of a recipe: job: .*run it again with"):
        read_recipe(out, "")


def test_a_finished_recipe_is_handed_back(small: tuple[Path, RecipeResult]) -> None:
    out, result = small
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_recipe(made(SMALL), out, setting=quick(), resume=True) == result
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match=r"exists; --resume goes on"):
        run_recipe(made(SMALL), out, setting=quick())
    with pytest.raises(UsageError, match=r"steps\.cluster\.bits was 3, is now 4"):
        run_recipe(made(SMALL, "cluster.bits=4"), out, setting=quick(), resume=True)


def test_the_page_holds_a_recipe_that_does_the_same() -> None:
    recipe = made(SMALL, "seed=3", "pruned.macs=0.4x")
    again = made(text_of(recipe))
    assert (again.common, again.steps) == (recipe.common, recipe.steps)


TWO = """
common = { data = "digits", model = "mlp:8", epochs = 2 }
step = [{ job = "train", name = "one" }, { job = "train", name = "two", epochs = 3, teacher = "one" }]
"""


def test_a_killed_recipe_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = run_recipe(made(TWO), tmp_path / "whole", setting=quick())

    def stop(task: str, done: float, remark: str) -> None:
        if task.startswith("two") and "epoch 3" in remark:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(made(TWO), tmp_path / "cut", setting=quick(say=stop))
    assert (tmp_path / "cut" / "two" / "checkpoint.safetensors").is_file()
    one = tmp_path / "cut" / "one" / "model.safetensors"
    stamp = one.stat().st_mtime_ns
    told: list[tuple[str, str]] = []
    setting = quick(say=lambda task, done, remark: told.append((task, remark)))
    result = run_recipe(made(TWO), tmp_path / "cut", setting=setting, resume=True)
    assert one.stat().st_mtime_ns == stamp
    assert ("one", "done before") in told
    assert not any("epoch 1/" in remark for task, remark in told if task.startswith("two"))
    for name in ("one", "two"):
        files = [tmp_path / kind / name / "model.safetensors" for kind in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert result.verdict == whole.verdict


def test_a_step_that_fails_is_named_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recipe_networks.run_training

    def fail(request: Any, folder: Path, **how: Any) -> Any:
        if folder.name == "two":
            raise Diverged("loss is NaN")
        return real(request, folder, **how)

    monkeypatch.setattr(recipe_networks, "run_training", fail)
    with pytest.raises(Diverged, match=r"step 'two' \(train\): loss is NaN"):
        run_recipe(made(TWO), tmp_path / "run", setting=quick())
    assert len(json.loads((tmp_path / "run" / DONE).read_text())["steps"]) == 1
    assert not (tmp_path / "run" / "result.json").exists()


WILD = """
[[step]]
job = "train"
model = "mlp:8"
epochs = 1
optimizer = "sgd"
schedule = "constant"
learning_rate = 3e38
clip_norm = 0

[[step]]
job = "export"
run = "train"
"""


def test_a_training_that_diverged_ends_the_recipe_and_again_when_it_goes_on(tmp_path: Path) -> None:
    for resume in (False, True):
        with pytest.raises(Diverged, match=r"step 'train' \(train\): .*a lower learning_rate.*--overwrite"):
            run_recipe(made(WILD), tmp_path / "run", setting=quick(), resume=resume)
    assert not (tmp_path / "run" / "export").exists()
    assert not (tmp_path / "run" / DONE).exists()


def test_a_missed_goal_of_clustering_is_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "job.toml", tmp_path / "out"
    file.write_text("""
    common = { data = "digits" }
    step = [{ job = "train", model = "mlp:32", epochs = 3 },
            { job = "cluster", run = "train", iterations = 0 }]
    """)
    words = ["run", str(file), "--threads", "1", "--json", "--out", str(out)]
    asked = {
        ("cluster.bits=1", "cluster.max_loss=0"): ("max-loss", False),
        ("cluster.bits=8", "cluster.max_loss=20"): ("max-loss", True),
        ("cluster.size=50B", "cluster.iterations=2"): ("size", False),
    }
    for changes, (name, met) in asked.items():
        assert execute([*words, *changes, "--overwrite"]) == (0 if met else 3), changes
        found = json.loads(capsys.readouterr().out)
        assert [(goal["name"], goal["met"], bool(goal["reason"])) for goal in found["goals"]] == [
            (name, met, not met)
        ]
        assert ("missed" in found["steps"][1]["verdict"]) != met


def test_common_settings_reach_the_experiments_that_know_them() -> None:
    """`data` is known to both steps of the recipe, `mode` to one, `seed` to the other."""
    recipe = made(shipped()["documents"], "seed=4", "mode=full", "data=digits")
    pruning, study = check(recipe, Path("nowhere"), quick(), [])
    assert (pruning.settings["mode"], pruning.settings["data"]) == ("full", "digits")
    assert "seed" not in pruning.settings
    assert study.request.spec.seeds == [4]
    found = faults_in(shipped()["documents"], "pruning.seed=1", "epochss=2")
    assert any("unknown setting of pruning 'seed'; did you mean 'seeds'?" in fault for fault in found)
    assert any("unknown setting of [common] 'epochss'" in fault for fault in found)
    alone = 'common = {data = "digits", seed = 1}\nstep = [{job = "reproduce", experiment = "pruning"}]'
    (fault,) = faults_in(alone)
    assert fault == "unknown setting of [common] 'seed'; did you mean 'seeds'?; no step knows it"


def test_seeds_of_a_study_win_over_the_seed_of_a_recipe() -> None:
    for own, seeds in (("seeds = 2", 2), ("axes = {seed = [5, 6]}", None), ("seed = 3", [3]), ("", [1])):
        text = f'common = {{data = "digits", seed = 1}}\n[[step]]\njob = "study"\n{own}'
        (study,) = check(made(text), Path("nowhere"), quick(), [])
        assert study.request.spec.seeds == seeds


@pytest.mark.slow
def test_the_shrink_recipe_is_tersa_shrink(tmp_path: Path) -> None:
    """The same request, and the same bytes."""
    quickly = ["model=lenet:4-6-16", "epochs=3", "retrain=5", "tune=20", "share=0.3", "precision=fp32"]
    more = ["max_loss=20", "criterion_samples=100"]
    recipe = made(shipped()["shrink"], *quickly, *more)
    (step,) = check(recipe, tmp_path, quick(), [])
    wanted = made(shipped()["shrink"])
    (plain,) = check(wanted, tmp_path, quick(), [])
    assert plain.request.goals.max_loss == 1.0
    assert plain.request.model_dump() == type(plain.request)().model_dump(), "tersa shrink with its defaults"
    cache = tmp_path / "cache"
    shrink(step.request, tmp_path / "verb", setting=quick(cache=cache))
    run_recipe(recipe, tmp_path / "recipe", setting=quick(cache=cache))
    for name in ("model.onnx", "model.safetensors", "spec.toml"):
        files = (tmp_path / "verb" / name, tmp_path / "recipe" / "shrink" / name)
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_there_is_a_recipe_for_each_user() -> None:
    recipes = [parse(text, name, []) for name, text in shipped().items()]
    for user in ("engineer", "researcher", "reader"):
        assert any(user in recipe.audience for recipe in recipes)
    for recipe in recipes:
        assert recipe.description
        assert len(check(recipe, Path("nowhere"), quick(), [])) == len(recipe.steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-and-fast", "few-bits", "documents"])
def test_shipped_recipes_run(name: str, tmp_path: Path) -> None:
    result = run_recipe(made(shipped()[name]), tmp_path / name, setting=quick())
    assert len(result.steps) == len(made(shipped()[name]).steps)
    assert (tmp_path / name / "report.html").is_file()


def step(name: str, uses: list[str], before: Cost | None, after: Cost | None) -> StepResult:
    return StepResult(
        name=name, job="train", uses=uses, verdict=f"{name} done", before=before, after=after, seconds=1.0
    )


def test_the_headline_follows_the_network_that_was_changed() -> None:
    costs = [Cost(test_accuracy=90.0 + n, size_bytes=8000 >> n, macs=400 >> n) for n in range(3)]
    other = step("other", [], None, Cost(test_accuracy=10.0, size_bytes=1))
    steps = [other, step("a", [], None, costs[0]), step("b", ["a"], costs[0], costs[1])]
    assert ends(steps) == (costs[0], costs[1])
    words = headline(steps, *ends(steps)).replace("\u202f", " ")
    assert words == "2.0× smaller, 2.0× fewer MACs: 90.00 % became 91.00 % on test in 3 steps"
    assert headline([other], *ends([other])) == "other done"


def test_finding_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "shrink.toml"
    file.write_text("step = []")
    assert find_recipe(str(file))[1] == "step = []"
    assert find_recipe("shrink")[1] == shipped()["shrink"]
    with pytest.raises(UsageError, match=r"unknown recipe 'shrnk'; did you mean 'shrink'\?"):
        find_recipe("shrnk")
    with pytest.raises(UsageError, match=r"no file none\.toml; give a recipe file"):
        find_recipe("none.toml")


def test_settings_of_the_jobs_are_those_of_their_verbs() -> None:
    assert {"max_loss", "latency", "retrain", "target"} <= JOBS["shrink"].settings
    assert "run" not in JOBS["shrink"].settings
    assert {"search", "front", "table", "finetune_steps"} <= JOBS["adapt"].settings
    assert JOBS["prune"].other_names == {"normalize": "normalisation", "mac_penalty": "mac_weight"}
    assert JOBS["adapt"].other_names == {}, "adapt has neither"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.toml"
    file.write_text(TWO)
    out = ["--out", str(tmp_path / "run"), "--threads", "1"]
    assert execute(["run", str(file), *out, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in plan["steps"]] == ["one", "two"]
    assert not (tmp_path / "run").exists()
    assert execute(["run", str(file), "two.epochs=1", *out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["result"]["test_accuracy"] == found["steps"][1]["after"]["test_accuracy"]
    assert Path(found["report"]).is_file()
    stored = read_record(tmp_path / "run" / "result.json", RecipeResult)
    assert stored.absolute(tmp_path / "run").model_dump(mode="json") == found
    assert execute(["run", str(file), "epohs=1", *out]) == 2
    assert "did you mean 'epochs'?" in capsys.readouterr().err
    assert execute(["run", "--list", "--json"]) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)["recipes"]} == set(shipped())
    assert execute(["run"]) == 2


@pytest.mark.slow
def test_a_missed_goal_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shrink.model=mlp:8", "shrink.epochs=1", "max_loss=0", "size=10", "retrain=1", "tune=2"]
    out = ["--out", str(tmp_path / "run"), "--threads", "1", "--measure-seconds", "0.05"]
    assert execute(["run", "shrink", *words, *out]) == 3
    assert "missed in shrink" in capsys.readouterr().out


def test_steps_retrain_as_their_commands_do() -> None:
    adapted = shrink_request("adapt", {"macs": "0.5x", "tune": 7})
    assert adapted.protocol == {**STRONG, "tune": 7}
    stepwise = shrink_request("adapt", {"macs": "0.5x", "search": "netadapt", "tune": 7})
    with pytest.raises(UsageError, match="learning_rate: no effect: for the closing fine-tune"):
        shrink_request("adapt", {"macs": "0.5x", "search": "netadapt", "tune": 0, "learning_rate": 0.05})
    assert stepwise.protocol == adapted.protocol, "its short fine-tunes alone are not strong"
    assert shrink_request("prune", {"macs": "0.5x", "update": "adamw"}).protocol == {
        **STRONG,
        "update": "adamw",
    }
    assert shrink_request("shrink", {"macs": "0.5x"}).protocol == {}

"""Settings: defaults, faults reported together, overrides, extent of a run."""

from __future__ import annotations

import pytest

from tersa.errors import UsageError
from tersa.train.config import CHOICES, RATES, TrainConfig, extent, override


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_each_optimiser_has_its_own_rate(optimizer: str) -> None:
    assert TrainConfig.model_validate({"optimizer": optimizer}).learning_rate == RATES[optimizer]


def test_a_given_rate_is_kept() -> None:
    assert TrainConfig(optimizer="adam", learning_rate=0.3).learning_rate == 0.3


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(optimizer="lbfgs", batch=0, epochs=2),
        TrainConfig(schedule="step", step_epochs=3, gamma=0.5, iterations=70),
        TrainConfig(distillation="temperature", distillation_temperature=4.0, distillation_weight=0.9),
    ],
)
def test_json_round_trip(config: TrainConfig) -> None:
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_all_faults_come_in_one_message() -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig.model_validate(
            {"optimizer": "adm", "batch": -3, "epoch": 4, "gamma": 0.5, "learning_rate": float("nan")}
        )
    text = str(caught.value)
    assert text.startswith("training settings: 5 faults")
    assert "unknown optimizer 'adm'; did you mean 'adam'? known: " in text
    assert "batch is -3; must be greater than or equal to 0" in text
    assert "unknown setting 'epoch'; did you mean 'epochs'? known: " in text
    assert "learning_rate is nan; must be a finite number" in text
    assert "gamma is used by the schedules step and exponential alone" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adam", "momentum": 0.5}, "momentum is used by"),
        ({"optimizer": "nesterov", "momentum": 0}, "momentum is 0; must be above 0"),
        ({"schedule": "step"}, "needs step_epochs"),
        ({"schedule": "cosine", "step_epochs": 2}, "step_epochs is used by the step schedule alone"),
        ({"schedule": "cosine", "gamma": 0.5}, "gamma is used by"),
        ({"schedule": "one-cycle", "warmup": 0}, "one-cycle needs a warmup above 0"),
        ({"optimizer": "lbfgs", "weight_decay": 0.1}, "lbfgs offers no weight_decay"),
        ({"optimizer": "lbfgs", "clip_norm": 1}, "lbfgs offers no clip_norm"),
        ({"optimizer": "lbfgs", "channels_last": True}, "lbfgs offers no channels_last"),
        ({"distillation": "temperature", "distillation_weight": 1.5}, "must be at most 1"),
        ({"distillation_weight": 0.9}, "distillation_weight needs distillation"),
        ({"distillation": "document", "distillation_temperature": 2}, "distillation_temperature is used by"),
        ({"momentum": 1.0}, "momentum is 1.0; must be less than 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; must be less than 1"),
        ({"iterations": 0}, "iterations is 0; must be greater than or equal to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"precision": "float"}, "unknown precision 'float'; known: bf16, fp32"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig.model_validate(settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "iterations", "wanted"),
    [
        (1000, 100, 3, None, (10, 30, 3)),
        (1001, 100, 3, None, (11, 33, 3)),
        (1000, 0, 2, None, (1, 2, 2)),
        (10, 100, 2, None, (1, 2, 2)),
        (1000, 100, 9, 25, (10, 25, 3)),
        (1000, 100, 9, 20, (10, 20, 2)),
    ],
)
def test_extent(
    images: int, batch: int, epochs: int, iterations: int | None, wanted: tuple[int, int, int]
) -> None:
    length = extent(TrainConfig(batch=batch, epochs=epochs, iterations=iterations), images)
    assert (length.per_epoch, length.iterations, length.epochs) == wanted


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        extent(TrainConfig(), 0)


def test_override_converts_text_and_checks_again() -> None:
    config = override(TrainConfig(), {"epochs": "3", "flip": "true", "clip_norm": "0.5"})
    assert (config.epochs, config.flip, config.clip_norm) == (3, True, 0.5)
    with pytest.raises(UsageError, match="unknown setting 'lr'"):
        override(TrainConfig(), {"lr": "3"})


def test_a_new_optimiser_brings_its_own_rate_unless_given() -> None:
    start = TrainConfig(optimizer="nesterov", learning_rate=0.2, momentum=0.8)
    assert override(start, {"optimizer": "adam"}).learning_rate == RATES["adam"]
    assert override(start, {"optimizer": "adam", "learning_rate": 0.01}).learning_rate == 0.01
    assert override(start, {"optimizer": "nesterov"}) == start


def test_a_new_schedule_drops_the_old_ones_shape() -> None:
    start = TrainConfig(schedule="step", step_epochs=3, gamma=0.5)
    assert override(start, {"schedule": "cosine"}).step_epochs == 0


def test_new_epochs_replace_iterations() -> None:
    assert override(TrainConfig(iterations=50), {"epochs": 2}).iterations is None


def test_every_setting_has_a_sentence_of_its_own() -> None:
    sentences = [field.description for field in TrainConfig.model_fields.values()]
    assert all(sentence and len(sentence) > 20 for sentence in sentences)
    assert len(set(sentences)) == len(sentences)

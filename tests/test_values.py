"""The engine's values cannot be changed: threads share them, and nobody can give them a field that they do not have."""

import inspect
import pkgutil
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

import worker.b2copy
import worker.flow
import worker.ledger
import worker.session

WITHOUT_SLOTS = {"ThisWorker"}


def classes() -> list[type[Any]]:
    """Return the classes that the engine's packages define."""
    found: dict[str, type[Any]] = {}
    for package in (worker.b2copy, worker.flow, worker.ledger, worker.session):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "migrations" not in module.name:
                for name, one in inspect.getmembers(import_module(module.name), inspect.isclass):
                    if one.__module__ == module.name:
                        found[f"{module.name}.{name}"] = one
    return list(found.values())


DATACLASSES = [one for one in classes() if is_dataclass(one)]
MODELS = [one for one in classes() if issubclass(one, BaseModel)]


@pytest.mark.parametrize("value", DATACLASSES, ids=lambda value: f"{value.__module__}.{value.__name__}")
def test_a_value_is_frozen_and_has_its_fields_alone(value: type[Any]) -> None:
    assert vars(value)["__dataclass_params__"].frozen
    assert "__slots__" in vars(value) or value.__name__ in WITHOUT_SLOTS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_parameters_and_answers_are_frozen(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen")

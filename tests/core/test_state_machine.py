"""The core against a model: every command, time passing, slow stores and sweeps, in any order."""

from hypothesis import settings
from machine import CoreAgainstModel

TestCoreAgainstModel = CoreAgainstModel.TestCase
TestCoreAgainstModel.settings = settings(max_examples=300, stateful_step_count=40)

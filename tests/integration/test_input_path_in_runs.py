"""Runs whose batches are pooled by length keep the promises of runs whose batches are not."""

from __future__ import annotations

from tests.integration.test_run import QUICKSTART, run, same, weights, words, world  # noqa: F401  (a fixture)

POOLED = ("data.length_pool=3", "scheduler=constant")


def test_a_run_of_pooled_batches_ends_alike_after_an_interruption(world, tmp_path):  # noqa: F811
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(QUICKSTART / "teacher.yaml", words(world, whole, *POOLED))
    for updates in (5, 12):
        more = (f"training.max_updates={updates}", "checkpoint.resume=true")
        run(QUICKSTART / "teacher.yaml", words(world, stopped, *POOLED, *more))
    assert same(weights(whole), weights(stopped))
    run(QUICKSTART / "teacher.yaml", words(world, tmp_path / "other", "scheduler=constant"))
    assert not same(weights(whole), weights(tmp_path / "other"))

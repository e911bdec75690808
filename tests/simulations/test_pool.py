"""A pool of Ray actors: jobs one after the other in processes that stay, and what deaths do to them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fedmeta.errors import ConfigError, DataError
from simulations.executors.pool import LIVES, Done, Pool

pytestmark = pytest.mark.usefixtures("two_ray_cpus")


def outcome(job: str) -> tuple[str, int, str]:
    """What the tests ask of an actor; it runs there."""
    kind, _, rest = job.partition(" ")
    if kind == "fail":
        raise ValueError(f"no\nluck {rest}")
    if kind == "input":
        raise DataError("no data")
    if kind == "sleep":
        time.sleep(float(rest))
    if kind == "die":  # a given number of times; the file counts
        file = Path(rest.split()[0])
        deaths = int(file.read_text()) if file.exists() else 0
        if deaths < int(rest.split()[1]):
            file.write_text(str(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
    return job, os.getpid(), os.getcwd()


@pytest.fixture(scope="module")
def pool(two_ray_cpus: None) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def by_job(
    done: Iterator[Done[str, tuple[str, int, str]]],
) -> dict[str, Done[str, tuple[str, int, str]]]:
    return {each.job: each for each in done}


def test_two_processes_do_all_jobs_where_the_caller_stands(pool: Pool) -> None:
    jobs = [f"job {i}" for i in range(9)]
    found = by_job(pool.run(outcome, jobs))
    assert sorted(found) == jobs
    results = [each.result for each in found.values() if each.result]
    assert [job for job, _, _ in results] == list(found)
    assert len({pid for _, pid, _ in results}) == 2
    assert {folder for _, _, folder in results} == {os.getcwd()}
    assert all(each.seconds >= 0 and not each.failure for each in found.values())


def test_a_failure_is_a_line_and_harms_no_other(pool: Pool) -> None:
    found = by_job(pool.run(outcome, ["fail 1", "job", "input"]))
    assert found["fail 1"].failure == "ValueError: no luck 1"
    assert found["input"].failure == "no data"
    assert found["job"].failure == ""


def test_a_job_is_asked_for_when_an_actor_is_free_and_may_depend_on_results(pool: Pool) -> None:
    heard: list[str] = []

    def jobs() -> Iterator[str]:
        for i in range(6):
            assert len(heard) >= i - 1  # two at a time: the one before the last is heard
            yield f"job {i}"

    for done in pool.run(outcome, jobs()):
        heard.append(done.job)
    assert len(heard) == 6


def test_what_is_under_way_is_told(pool: Pool) -> None:
    seen: list[list[str]] = []

    def tick(running: Sequence[str]) -> None:
        seen.append(list(running))

    list(pool.run(outcome, ["sleep 1.2", "job"], tick))
    assert ["sleep 1.2"] in seen
    assert seen[-1] == []


def test_an_actor_that_dies_is_replaced_and_its_job_done_again(pool: Pool, tmp_path: Path) -> None:
    once, always = f"die {tmp_path / 'once'} 1", f"die {tmp_path / 'always'} 99"
    found = by_job(pool.run(outcome, [once, always, "job 1", "job 2"]))
    assert found[once].result is not None
    assert found[always].result is None
    assert found[always].failure.startswith(f"{LIVES} times over, its worker died (")
    assert (tmp_path / "always").read_text() == str(LIVES)
    assert {found["job 1"].failure, found["job 2"].failure} == {""}
    assert len(by_job(pool.run(outcome, ["job a", "job b"]))) == 2


def test_more_actors_than_cpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="--jobs must be at most the 2 CPUs of the Ray cluster"):
        Pool(3)

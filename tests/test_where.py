import pytest
import where


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pytest", "-m", "gpu"], True),
        (["pytest", "tests/ops", "-mgpu", "-q"], True),
        (["pytest", "-m", "gpu and not slow"], True),
        (["pytest", "-m", "gpu or thorough"], True),
        (["pytest", "-m", "slow", "-m", "gpu"], True),
        (["pytest", "-m", "gpu", "-m", "slow"], False),
        (["pytest"], False),
        (["pytest", "-m", ""], False),
        (["pytest", "-m", "not gpu"], False),
        (["pytest", "-m", "thorough"], False),
        (["pytest", "-m", "gpu or not slow"], False),  # the selection has tests for the CPU too
        (["pytest", "-m", "gpu and ("], False),
    ],
)
def test_only_a_choice_of_gpu_tests_runs_on_the_gpu(arguments, expected):
    assert where.wants_gpu(arguments) is expected


def test_a_choice_of_gpu_tests_leaves_platform_and_optimisations_alone(monkeypatch):
    names = ("AA_FLAX_TESTS_ON", "JAX_PLATFORMS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_PYTHON_CLIENT_PREALLOCATE")
    names += ("XLA_FLAGS",)
    environment = dict.fromkeys(names)
    for arguments, on_gpu in ((["pytest", "-m", "gpu"], True), (["-c"], True), (["pytest"], False)):
        if arguments == ["pytest"]:
            environment = {}
        with monkeypatch.context() as patch:
            for name in names:
                patch.delenv(name, raising=False)
            patch.setattr(where.os, "environ", {key: value for key, value in environment.items() if value})
            where.prepare(arguments)
            environment = dict(where.os.environ)  # the environment of a worker
        assert where.on_gpu() is False  # the tests' own environment is untouched
        assert (environment.get("JAX_PLATFORMS") == "cpu") is not on_gpu
        assert ("JAX_DISABLE_MOST_OPTIMIZATIONS" in environment) is not on_gpu
        assert ("XLA_FLAGS" in environment) is not on_gpu
        assert ("XLA_PYTHON_CLIENT_PREALLOCATE" in environment) is on_gpu


def test_flags_of_the_user_stay_and_none_is_given_twice(monkeypatch):
    environment = {"XLA_FLAGS": "--xla_dump_to=/there --xla_cpu_parallel_codegen_split_count=7"}
    monkeypatch.setattr(where.os, "environ", environment)
    for _ in range(2):  # the second time as a worker
        where.prepare(["pytest"])
        flags = environment["XLA_FLAGS"].split()
        assert flags[-2:] == ["--xla_dump_to=/there", "--xla_cpu_parallel_codegen_split_count=7"]
        assert len({flag.partition("=")[0] for flag in flags}) == len(flags)

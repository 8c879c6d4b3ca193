"""Chunks: which rows run together, what cannot be divided, and what happens when memory runs out."""

import weakref

import pytest
import torch
from torch.testing import assert_close

from contray import data, model
from contray.cli.dryrun import describe
from contray.config import RunConfig
from contray.errors import ConfigError, UserError
from contray.methods._base import Batch, Clock
from contray.methods._ranks import shares
from contray.model.chunks import Chunk, normed, plan
from contray.model.gradients import Gradients
from contray.storage.folder import Storage
from contray.training import loop
from contray.training.step import LIMIT, Stepper, forward_backward
from tests.methods.test_contract import assert_same, batch_of, begun, clock_of, config_of
from tests.ranks import run_ranks


def rows_of(chunk, size, groups, own, layout):
    return [slot for slot in own if (slot * groups // size if layout == "blocks" else slot % groups) in chunk]


@pytest.mark.parametrize("size", [8, 13, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8, 13, 64])
def test_chunks_are_whole_groups_within_the_limit_on_every_rank(size, world, groups):
    if groups > size:
        return
    for limit in range(1, size + 1):
        try:
            chunks = plan(size, world, groups, limit)
        except ConfigError:
            assert limit < -(-size // groups), "a group that fits was refused"
            continue
        assert sorted(group for chunk in chunks for group in chunk) == list(range(groups))
        for own in shares(size, world):
            for layout in ("blocks", "strided"):
                assert max(len(rows_of(chunk, size, groups, own, layout)) for chunk in chunks) <= limit
        if limit >= -(-size // world):
            assert len(chunks) == 1


def test_the_fewest_chunks_are_made_and_each_rank_has_its_part_of_each():
    assert plan(64, 2, 8, 16) == [range(0, 8, 2), range(1, 8, 2)]
    assert plan(64, 1, 8, 63) == [range(0, 8, 2), range(1, 8, 2)]
    assert plan(64, 1, 8, 0) == [range(8)]


def test_a_group_that_does_not_fit_is_refused_with_the_groups_that_would():
    simclr = RunConfig.make("simclr", {"train.batch_size": 64, "train.norm_groups": 2, "scale.max_batch_per_worker": 20})
    with pytest.raises(ConfigError, match=r"max_batch_per_worker: got 20, .* 32 rows .* train.norm_groups 4 would fit"):
        model.check(simclr, 1000)
    model.check(simclr.replace({"train.norm_groups": 4}), 1000)
    model.check(simclr.replace({"backbone.norm": "gn"}), 1000)
    model.check(simclr.replace({"scale.workers": (4, 4)}), 1000)
    with pytest.raises(ConfigError, match="20"):  # one of four workers may be all there is
        model.check(simclr.replace({"scale.workers": (1, 4)}), 1000)
    with pytest.raises(ConfigError, match="must be at least 2: batch norm"):
        model.check(simclr.replace({"scale.max_batch_per_worker": 1}), 1000)


@pytest.mark.parametrize(("method", "norms"), [("simclr", True), ("dino", True), ("mae", False), ("moco_v3 digits_vit", False)])
def test_only_batch_norm_that_runs_in_chunks_counts(method, norms):
    """MoCo v3's heads have batch norm, its transformer has none."""
    method, _, preset = method.partition(" ")
    config = RunConfig.make(method, preset=preset or "digits")
    assert normed(model.build(config, 1000)) == norms


def lopsided(rank, world, cases):
    """Two chunks of four norm groups: neither rank has rows of blocks in both."""
    results = {}
    for case in cases:
        config = config_of(case, size=12, groups=4)
        method, batch = begun(config), batch_of(config, 0, rank, world)
        chunks = [
            Chunk(
                torch.tensor([i for i, slot in enumerate(shares(12, world)[rank]) if slot * 4 // 12 in chosen], dtype=torch.long),
                torch.tensor([i for i, slot in enumerate(shares(12, world)[rank]) if slot % 4 in chosen], dtype=torch.long),
                4,
            )
            for chosen in ((0, 1), (2, 3))
        ]
        divided = chunks if world > 1 else [chunks[0]]
        _, out = forward_backward(config, method, batch, clock_of(0), divided, Gradients(method))
        results[case] = {
            "gradients": {name: p.grad for name, p in method.named_parameters() if p.grad is not None},
            "buffers": dict(method.named_buffers()),
            "loss": out["loss"].detach(),
        }
    return results


def test_a_rank_without_rows_of_a_chunk_takes_part_all_the_same():
    cases = ["moco digits", "infomin digits", "swav digits_multicrop", "barlow_twins digits"]
    alone, (first, second) = lopsided(0, 1, cases), run_ranks(lopsided, 2, cases)
    for case in cases:
        assert_close(first[case]["loss"] + second[case]["loss"], alone[case]["loss"], rtol=1e-9, atol=1e-9)
        assert_same(first[case]["gradients"], alone[case]["gradients"], 1e-9, 1e-9, case)
        assert_same(second[case]["buffers"], alone[case]["buffers"], 1e-9, 1e-9, case)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiled_backbones_run_in_chunks():
    config = config_of("moco digits", size=12, groups=4).replace({"scale.max_batch_per_worker": 6})
    plain, compiled = begun(config), begun(config)
    torch._dynamo.reset()
    compiled.represent = torch.compile(compiled.represent, backend="eager", dynamic=False)
    losses = [Stepper(config, method, 0, 1, None)(batch_of(config, 0), clock_of(0))[1] for method in (plain, compiled)]
    assert_same(losses[1], losses[0], 1e-9, 1e-9, "loss")
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert_same(q.grad, p.grad, 1e-9, 1e-9, name)


def test_no_more_than_a_chunk_is_held_for_the_backward_pass():
    config = config_of("moco digits", size=12, groups=4).replace({"scale.max_batch_per_worker": 3})
    method, held, seen = begun(config), [], []

    def watch(layer, inputs, output):
        held.append(weakref.ref(output))
        seen.append(sum(ref() is not None for ref in held))

    method.backbone.conv1.register_forward_hook(watch)
    step = Stepper(config, method, 0, 1, None)
    results = [step(batch_of(config, 0), clock_of(0)), held[-1]()]
    assert (len(seen), max(seen)) == (8, 1)
    assert results[1] is None


def test_batch_norm_in_chunks_of_arbitrary_rows_is_refused():
    config = config_of("simclr digits", size=12, groups=4)
    method, batch = begun(config), batch_of(config, 0)
    chunks = [Chunk(torch.arange(start, start + 6), torch.arange(start, start + 6), 0) for start in (0, 6)]
    with pytest.raises(RuntimeError, match="not whole norm groups"):
        forward_backward(config, method, batch, clock_of(0), chunks, Gradients(method))


def test_the_dry_run_tells_of_chunks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    keys = {"train.batch_size": 64, "train.norm_groups": 8, "views.view.size": 16, "data.size": 16, "data.renderings": 1}
    config = RunConfig.make("simclr", {**keys, "scale.max_batch_per_worker": 16, "scale.workers": (1, 2), "backbone.width": 4})
    describe(config)
    assert "4 of at most 16 samples each at 1 worker; 2 of at most 16 samples each at 2 workers" in capsys.readouterr().out


# ---------------------------------------------------------------- out of memory


def small_memory(method, most):
    """As on a card that holds the activations of `most` rows; the last layer of the backbone is where it runs out."""
    represent, rows = method.represent, []

    def run(batch: Batch, clock: Clock):
        reps = represent(batch, clock)  # running statistics are written before it runs out
        rows.append(len(batch.slot))
        if rows[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return reps

    method.represent = run
    return rows


@pytest.mark.parametrize("case", ["moco digits", "mae digits"])
def test_a_step_that_runs_out_of_memory_is_done_again_in_halves(case, capsys, tmp_path):
    config = config_of(case, size=12, groups=4)
    results = []
    for most in (12, 6):
        method = begun(config)
        rows = small_memory(method, most)
        step = Stepper(config, method, 0, 1, storage := Storage(str(tmp_path / str(most))))
        storage.create()
        for index in range(2):
            _, out = step(batch_of(config, index), clock_of(index))
        results.append((out["loss"].detach(), {n: p.grad for n, p in method.named_parameters()}, dict(method.named_buffers())))
    assert rows.count(12) == 1, "the half stays"
    assert Stepper(config, method, 0, 1, storage).limit == 6, (
        "also where the run goes on later: undivided, its sums would have another order"
    )
    for one, other in zip(results[1], results[0], strict=True):
        assert_same(one, other, 1e-9, 1e-9, case)
    assert "the step is done again with scale.max_batch_per_worker 6" in capsys.readouterr().out


def test_memory_that_runs_out_again_or_cannot_be_divided_is_told():
    config = config_of("simclr digits", size=12, groups=4)
    method = begun(config)
    small_memory(method, 3)
    with pytest.raises(UserError, match=r"with 6 rows .* set scale.max_batch_per_worker below 6"):
        Stepper(config, method, 0, 1, None)(batch_of(config, 0), clock_of(0))
    config = config_of("simclr digits", size=12, groups=1)
    method = begun(config)
    small_memory(method, 3)
    with pytest.raises(
        UserError, match=r"no smaller chunks can be made: a norm group of 12 rows .* train.norm_groups 2 would fit"
    ):
        Stepper(config, method, 0, 1, None)(batch_of(config, 0), clock_of(0))


def test_the_workers_that_follow_take_the_half(tmp_path):
    storage = Storage(str(tmp_path))
    config = config_of("simclr digits", size=12, groups=4)
    method = begun(config)
    small_memory(method, 3)
    batch = batch_of(config, 0, 0, 2)
    with pytest.raises(torch.OutOfMemoryError, match=r"new workers go on with scale.max_batch_per_worker 3"):
        Stepper(config, method, 0, 2, storage)(batch, clock_of(0))
    assert storage.names() == [LIMIT]
    again = Stepper(config, method, 0, 2, storage)
    assert (again.limit, len(again.chunks)) == (3, 2)
    small_memory(method, 1)
    with pytest.raises(UserError, match=r"set scale.max_batch_per_worker below 3"):
        again(batch, clock_of(0))
    chosen = config.replace({"scale.max_batch_per_worker": 4})
    assert Stepper(chosen, method, 0, 2, storage).limit == 4, "what the user sets anew wins"


def test_a_run_in_chunks_is_the_run(tmp_path):
    """Through the loop, resumed with another limit."""
    config = RunConfig.make(
        "simclr",
        {
            "train.batch_size": 64, "train.norm_groups": 4, "train.steps": 3, "train.precision": "fp64", "train.log_every": 1,
            "backbone.width": 4, "views.view.size": 16, "data.renderings": 1, "data.size": 16, "data.workers": 0,
            "eval.every_epochs": 0,
        },
    )  # fmt: skip
    source = data.open_source(config.data)
    whole = loop.train(config, source).method.state_dict()
    storage = Storage(str(tmp_path))
    storage.create()

    class Stops(loop.Listener):
        def stop(self):
            return True

    loop.train(config.replace({"scale.max_batch_per_worker": 16}), source, storage, Stops())
    resumed = loop.train(config.replace({"scale.max_batch_per_worker": 32}), source, storage)
    assert resumed.worlds == [1]
    assert_same(dict(resumed.method.state_dict()), dict(whole), 1e-9, 1e-9, "state")


@pytest.mark.parametrize("world", [1, 2])
def test_a_weight_without_a_gradient_is_moved_alike_on_any_world(world: int) -> None:
    """Weight decay and momentum have their say or have not, whatever the number of ranks."""
    found = run_ranks(unused_weight, world) if world > 1 else [unused_weight(0, 1)]
    assert found == [[0.0, 0.0]] * world


def unused_weight(rank: int, world: int) -> list[float]:
    method = begun(config_of("simclr digits"))
    method.register_parameter("unused", torch.nn.Parameter(torch.ones(2, dtype=torch.float64)))
    sums = Gradients(method)
    sums.sum()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert isinstance(method.unused.grad, torch.Tensor)
    return method.unused.grad.tolist()

"""The loop: resuming is exact, world sizes do not matter, a loss that is no number stops with the step named."""

import math

import pytest
import torch
from torch.testing import assert_close

from contray import data
from contray.config import RunConfig
from contray.errors import UserError
from contray.storage.checkpoint import latest, load
from contray.storage.folder import Storage
from contray.training.checkpoints import Checkpoints
from contray.training.finite import Finite
from contray.training.loop import Listener, NonFiniteLoss, train
from contray.training.restore import DoesNotFit, check_fits
from contray.training.start import marks
from tests.ranks import run_ranks

TINY = {
    "train.batch_size": 65,
    "train.norm_groups": 2,
    "train.steps": 6,
    "train.log_every": 1,
    "train.checkpoint_seconds": 1e6,
    "backbone.width": 4,
    "data.renderings": 1,
    "data.size": 16,
    "data.workers": 0,
    "eval.every_epochs": 0,
}
SMALL_VIEWS = {
    "simclr": {"views.view.size": 16},
    "moco": {"views.query.size": 16, "views.key.size": 16, "method.queue_size": 130, "method.dim": 8},
}


def tiny(method, **overrides):
    return RunConfig.make(
        method, {**TINY, **SMALL_VIEWS[method], **{key.replace("__", "."): value for key, value in overrides.items()}}
    )


class Losses(Listener):
    def __init__(self):
        self.loss, self.values, self.durable_steps = {}, {}, []

    def log(self, step, values):
        self.loss[step] = values.get("loss", self.loss.get(step))
        self.values.setdefault(step, {}).update(values)

    def durable(self, step):
        self.durable_steps.append(step)


def run(config, storage=None, listener=None):
    listener = listener or Losses()
    outcome = train(config, data.open_source(config.data), storage, listener)
    return outcome, listener


class Killed(Exception):
    pass


class DiesAt(Losses):
    """A process that ends without warning right after `step`."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def log(self, step, values):
        super().log(step, values)
        if step == self.step:
            raise Killed


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_a_killed_run_goes_on_bit_equal_at_the_exact_step(method, tmp_path):
    config = tiny(method, train__precision="fp32", train__checkpoint_steps=2)
    undisturbed, whole = run(config)
    storage = Storage(str(tmp_path))
    storage.create()
    with pytest.raises(Killed):
        run(config, storage, DiesAt(5))
    resumed, rest = run(config, storage)
    assert min(rest.loss) == 5  # the newest checkpoint is of step 4; 22 steps are an epoch, so this is mid-epoch
    assert {step: whole.loss[step] for step in rest.loss} == rest.loss
    for name, value in undisturbed.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name


def fp64_run(rank, world, method, steps):
    outcome, losses = run(tiny(method, train__precision="fp64", train__steps=steps))
    return losses.loss, outcome.method.state_dict()


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_one_and_two_workers_compute_the_same(method):
    alone = run_ranks(fp64_run, 1, method, 8)[0]
    together = run_ranks(fp64_run, 2, method, 8)
    for step, loss in alone[0].items():
        assert math.isclose(loss, together[0][0][step], rel_tol=1e-9), f"step {step}"
    for name, value in alone[1].items():
        assert_close(together[0][1][name], value, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(together[0][1][name], together[1][1][name]), name


def test_nothing_of_the_run_depends_on_the_global_generator():
    config = tiny("simclr", train__steps=2)
    torch.manual_seed(1)
    first = run(config)[1].loss
    torch.manual_seed(2)
    assert run(config)[1].loss == first


def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    config = tiny(
        "simclr", optim__name="sgd", optim__lr=1e30, optim__warmup_epochs=0, train__checkpoint_steps=1, train__precision="fp32"
    )
    storage = Storage(str(tmp_path))
    storage.create()
    with pytest.raises(NonFiniteLoss, match=r"step \d+: .*not finite"):
        run(config, storage)
    state = latest(storage)
    assert state is None or all(torch.isfinite(value).all() for value in state["method"].values() if value.is_floating_point())


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    config = tiny("simclr", train__steps=4, train__checkpoint_steps=2)
    storage = Storage(str(tmp_path))
    storage.create()
    run(config, storage)
    newest = tmp_path / "step-000000004.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="torn"):
        state = latest(storage)
    assert state["step"] == 2


def test_only_the_newest_checkpoints_are_kept_and_durability_is_told(tmp_path):
    storage = Storage(str(tmp_path))
    storage.create()
    _, losses = run(tiny("simclr", train__checkpoint_steps=1, train__steps=4), storage)
    assert storage.names() == ["step-000000003.pt", "step-000000004.pt"]
    assert losses.durable_steps == [1, 2, 3, 4]


def test_a_pickled_object_is_refused(tmp_path):
    torch.save({"method": {}, "config": "", "bad": Killed()}, tmp_path / "step-000000001.pt")
    with pytest.raises(UserError, match="pickled objects"):
        load((tmp_path / "step-000000001.pt").read_bytes(), "there")


def test_a_checkpoint_of_another_config_or_other_data_is_refused(tmp_path):
    storage = Storage(str(tmp_path))
    storage.create()
    run(tiny("simclr", train__steps=2), storage)
    with pytest.raises(UserError, match=r"differs in method\.temperature"):
        run(tiny("simclr", train__steps=2, method__temperature=0.5), storage)
    state = latest(storage)
    state["fingerprint"] = {**state["fingerprint"], "albumentations": "1.0"}
    Checkpoints(storage).save(3, state, wait=True)
    with pytest.raises(UserError, match=r"albumentations \(1.0 -> "):
        run(tiny("simclr", train__steps=2), storage)
    run(tiny("simclr", train__steps=2, train__allow_changes=True), storage)


def test_online_knn_and_a_stop_that_leaves_a_checkpoint(tmp_path):
    class Stops(Losses):
        def stop(self):
            return max(self.loss, default=0) >= 2

    storage = Storage(str(tmp_path))
    storage.create()
    outcome, losses = run(tiny("simclr", eval__every_epochs=0.05, train__steps=20), storage, Stops())
    assert not outcome.finished
    assert outcome.step == 3
    assert "step-000000003.pt" in storage.names()
    assert 0 <= losses.values[1]["knn_val_top1"] <= 1


def test_fewer_samples_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"train.batch_size: got 5000, but digits has 1438 training samples"):
        run(tiny("simclr", train__batch_size=5000))


def test_a_queue_that_would_hold_own_keys_is_refused():
    with pytest.raises(UserError, match=r"method.queue_size: got 1400, must be from \d+ .* to 1373 "):
        run(tiny("moco", method__queue_size=1400))


# ---------------------------------------------------------------- single precision, where rounding grows


def losses_of(rank, world, method, shuffle):
    """Losses of 20 steps in fp32; shuffle > 0 lets the rows of each norm group change places, which no loss should mind."""
    config = tiny(method, train__precision="fp32", train__steps=20, train__norm_groups=1, optim__name="sgd", optim__lr=0.001)
    if shuffle:
        plain, order = data.loader, torch.Generator().manual_seed(shuffle)

        def loader(*args, **kwargs):
            for raw in plain(*args, **kwargs):
                places = torch.randperm(len(raw["index"]), generator=order)
                views = {name: rows[places] for name, rows in raw["views"].items()}
                yield {**raw, "views": views, "index": raw["index"][places]}

        data.loader = loader
    return run(config)[1].loss


@pytest.mark.parametrize("method", ["simclr"])
def test_in_single_precision_workers_drift_no_further_than_rows_that_change_places(method):
    alone = run_ranks(losses_of, 1, method, 0)[0]
    assert alone == run_ranks(losses_of, 1, method, 0)[0], "bit-equal on the same world"

    def drift(world, shuffle=0):
        other = run_ranks(losses_of, world, method, shuffle)[0]
        return max(abs(other[step] - alone[step]) for step in alone)

    control = max(drift(1, shuffle) for shuffle in (1, 2))
    assert control > 0
    assert max(drift(2), drift(3)) <= 5 * control


def test_the_averaged_network_drags_no_graph_along():
    outcome, _ = run(tiny("moco", train__steps=2))
    assert all(parameter.is_leaf for parameter in outcome.method.parameters())
    assert not any(parameter.requires_grad for parameter in outcome.method.key_backbone.parameters())


def test_only_the_loss_decides_whether_a_step_counts() -> None:
    """Other metrics are seen in the steps that are logged: they must not make train.log_every choose which steps are left out."""
    finite = Finite(torch.device("cpu"))
    finite.check_loss(3, {"loss": 1.0, "contrast_top1": math.nan})
    with pytest.raises(NonFiniteLoss, match="not finite"):
        finite.check_loss(3, {"loss": math.inf, "contrast_top1": 0.5})


def test_a_library_that_fingerprints_of_before_did_not_name_is_no_change() -> None:
    config = RunConfig.make("simclr", {}, preset="digits")
    now = data.fingerprint(data.open_source(config.data), config.data)
    assert {"pillow", "torch"} <= now.keys()
    state = {"config": config.to_yaml(), "fingerprint": {key: value for key, value in now.items() if key != "pillow"}}
    check_fits(state, config, now)
    for other in ({"pillow": "1.0"}, {"torch": "1.0"}):
        with pytest.raises(DoesNotFit, match=next(iter(other))):
            check_fits({**state, "fingerprint": {**now, **other}}, config, now)
    assert "timm" in marks(RunConfig.make("simclr", {"backbone.name": "timm/resnet18"}, preset="digits"))
    assert "timm" not in marks(config)

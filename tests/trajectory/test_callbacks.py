"""Callbacks in the real trainers: what is recorded is what the optimizer did."""

import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors


class Net(nn.Module):
    """Returns logits, or with labels a dict with the loss too, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 3)

    def forward(self, x, labels=None):
        logits = self.body(x)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def test_a_missing_library_is_an_error_with_the_command(monkeypatch, tmp_path):
    for name, make in (
        ("lightning", ln.recording.lightning_callback),
        ("transformers", ln.recording.transformers_callback),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.pytorch", None)
        with pytest.raises(errors.MissingExtraError, match=rf"lossnav\[{name}\]"):
            make(tmp_path / "run")


# ---------------------------------------------------------------------- Lightning


@pytest.fixture
def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("lightning.pytorch")


def module_of(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)

    return Module()


def trainer_of(lightning, tmp_path, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path, "callbacks": list(callbacks)}
    return lightning.Trainer(**quiet, **options)


def test_lightning_records_steps_of_the_optimizer(lightning, tmp_path):
    module = module_of(lightning)
    before = module.net.body.weight.detach().clone()
    callback = ln.recording.lightning_callback(tmp_path / "run", module="net", every=2)
    trainer = trainer_of(lightning, tmp_path, callback, max_epochs=3, accumulate_grad_batches=2)
    trainer.fit(module)
    run = ln.Trajectory.open(tmp_path / "run")
    assert run.steps.tolist() == [0, 2, 4, 6, 8, 9]  # 6 batches an epoch, every second moves
    assert trainer.global_step == 9
    np.testing.assert_array_equal(run.epochs, [np.nan, 0, 1, 1, 2, 2])
    assert np.isfinite(run.losses[1:]).all()
    assert torch.equal(run[0]["body.weight"], before)
    assert torch.equal(run[-1]["body.weight"], module.net.body.weight)
    ln.Objective(module.net, "cross_entropy", (X, Y)).require_same_structure(run[0], "a snapshot")


def test_lightning_goes_on_from_a_checkpoint(lightning, tmp_path):
    module, options = module_of(lightning), {"module": "net", "resume": True}
    first = trainer_of(lightning, tmp_path, ln.recording.lightning_callback(tmp_path / "run", **options), max_epochs=1)
    first.fit(module)
    first.save_checkpoint(tmp_path / "one.ckpt")
    callback = ln.recording.lightning_callback(tmp_path / "run", **options)
    trainer_of(lightning, tmp_path, callback, max_epochs=2).fit(
        module_of(lightning), ckpt_path=tmp_path / "one.ckpt", weights_only=True
    )
    assert ln.Trajectory.open(tmp_path / "run").steps.tolist() == list(range(13))
    with pytest.raises(errors.OutputExistsError):  # from the start, without a checkpoint: nothing is replaced
        trainer_of(lightning, tmp_path, ln.recording.lightning_callback(tmp_path / "run", **options)).fit(module)
    with pytest.raises(errors.OptionError, match=r"module='nett'.*net"):
        trainer_of(lightning, tmp_path, ln.recording.lightning_callback(tmp_path / "b", module="nett")).fit(module)


# ---------------------------------------------------------------------- Hugging Face


@pytest.fixture
def transformers():
    pytest.importorskip("accelerate")
    return pytest.importorskip("transformers")


def hf_trainer(transformers, tmp_path, model, callback, **options):
    said = {"output_dir": str(tmp_path / "out"), "report_to": [], "use_cpu": True, "disable_tqdm": True}
    said |= {"per_device_train_batch_size": 4, "seed": 0, "save_strategy": "no", "learning_rate": 0.1}
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = transformers.TrainingArguments(**(said | options))
    return transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])


def test_transformers_records_steps_of_the_optimizer(transformers, tmp_path):
    model = Net()
    before = model.body.weight.detach().clone()
    callback = ln.recording.transformers_callback(tmp_path / "run", every=3)
    hf_trainer(transformers, tmp_path, model, callback, num_train_epochs=2, gradient_accumulation_steps=2).train()
    run = ln.Trajectory.open(tmp_path / "run")
    assert run.steps.tolist() == [0, 3, 6]
    np.testing.assert_allclose(run.epochs[1:], [1, 2])
    assert torch.equal(run[0]["body.weight"], before)
    assert torch.equal(run[-1]["body.weight"], model.body.weight)


def test_transformers_goes_on_from_a_checkpoint(transformers, tmp_path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    callback = ln.recording.transformers_callback(tmp_path / "run", resume=True)
    hf_trainer(transformers, tmp_path, Net(), callback, **options).train()
    whole = ln.Trajectory.open(tmp_path / "run")
    states = [params["body.weight"].clone() for params in whole]
    assert whole.steps.tolist() == list(range(9))
    callback = ln.recording.transformers_callback(tmp_path / "run", resume=True)
    again = hf_trainer(transformers, tmp_path, Net(), callback, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    run = ln.Trajectory.open(tmp_path / "run")
    assert run.steps.tolist() == list(range(9))
    for i in (3, 8):
        torch.testing.assert_close(run[i]["body.weight"], states[i])
